#include "quant/token_rows.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace d2q {
namespace {

class TokenRowsTest : public ::testing::Test {
 protected:
  TokenRows rows(int64_t n, bool on_host, float first = 0.0f) {
    const TokenRows result(*device_, n, 3, DType::kF32, on_host);
    float* values = result.tensor().data<float>();
    std::iota(values, values + 3 * n, first);
    return result;
  }
  static std::vector<float> values_of(const TokenRows& rows) {
    const float* values = rows.tensor().data<float>();
    return {values, values + rows.tensor().size()};
  }

  ThreadPool pool_{1};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(TokenRowsTest, LoopsOverRowsOnTheHostAsOverThoseOnTheDevice) {
  for (const int64_t n : {1, 4, 5, 8, 11, 16}) {
    std::vector<std::vector<float>> results[2];
    for (const bool on_host : {false, true}) {
      const TokenRows read = rows(n, on_host, 100.0f), written = rows(n, on_host),
                      updated = rows(n, on_host, 1000.0f);
      const TokenRows nothing;
      const RowAccess accesses[] = {{read, RowUse::kRead},
                                    {nothing, RowUse::kRead},
                                    {written, RowUse::kWrite},
                                    {updated, RowUse::kUpdate}};
      int64_t next = 0;
      for_row_chunks(*device_, n, 4, accesses, [&](int64_t begin, std::span<const Tensor> chunks) {
        EXPECT_EQ(begin, next);
        EXPECT_TRUE(chunks[1].empty());
        EXPECT_EQ(chunks[0].rows(), std::min<int64_t>(4, n - begin));
        next += chunks[0].rows();
        device_->convert(chunks[0], chunks[2]);
        device_->add(chunks[3], chunks[0]);
        device_->fill_zero(on_host ? chunks[0] : Tensor());  // a copy, which nobody stores
      });
      EXPECT_EQ(next, n);
      results[on_host] = {values_of(read), values_of(written), values_of(updated)};
    }
    EXPECT_EQ(results[0], results[1]) << n << " rows";
    EXPECT_EQ(results[0][1], results[0][0]);
    EXPECT_EQ(results[0][2][2], 1002.0f + 102.0f);
  }
}

TEST_F(TokenRowsTest, ReadsRowsWhereverTheyAre) {
  for (const bool on_host : {false, true}) {
    const TokenRows source = rows(7, on_host);
    EXPECT_EQ(source.on_host(), on_host);
    const Tensor read = source.read(*device_, 2, 3);
    ASSERT_EQ(read.rows(), 3);
    EXPECT_EQ(read.data<float>()[0], 6.0f);
    const TokenRows target = rows(5, false, 50.0f);
    source.copy_to(*device_, 4, target.tensor().row_range(1, 2));
    EXPECT_EQ(target.tensor().data<float>()[2], 52.0f);
    EXPECT_EQ(target.tensor().data<float>()[3], 12.0f);
    EXPECT_EQ(target.tensor().data<float>()[8], 17.0f);
    EXPECT_EQ(target.tensor().data<float>()[9], 59.0f);
  }
  EXPECT_TRUE(TokenRows().empty());
}

TEST_F(TokenRowsTest, JoinsPartsWhereverTheyAre) {
  const TokenRows joined =
      TokenRows::joined({rows(4, false), rows(3, true, 12.0f),
                         TokenRows(*device_, 0, 3, DType::kF32, false), rows(2, false, 21.0f)});
  EXPECT_EQ(joined.rows(), 9);
  EXPECT_EQ(joined.cols(), 3);
  EXPECT_FALSE(joined.empty());
  for (int64_t begin = 0; begin < 9; ++begin) {
    for (int64_t count = 1; begin + count <= 9; ++count) {
      const Tensor read = joined.read(*device_, begin, count);
      ASSERT_EQ(read.rows(), count);
      for (int64_t i = 0; i < read.size(); ++i)
        ASSERT_EQ(read.data<float>()[i], static_cast<float>(3 * begin + i)) << begin << count;
    }
  }
  // One part is itself.
  EXPECT_FALSE(TokenRows::joined({rows(4, false)}).tensor().empty());
}

}  // namespace
}  // namespace d2q
