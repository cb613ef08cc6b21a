#include "model/prefetched_source.h"

#include <gtest/gtest.h>

#include <atomic>

#include "base/error.h"
#include "model/fake_weights.h"
#include "model/load_weights.h"

namespace d2q {
namespace {

/// Counts loads, and notices two at a time.
class CountingSource final : public WeightSource {
 public:
  const ModelConfig& config() const override { return weights_.config(); }
  std::string format() const override { return weights_.format(); }
  bool has(const std::string& name) const override { return weights_.has(name); }
  std::optional<PackedView> packed(const std::string& name) const override {
    return weights_.packed(name);
  }
  Matrix<float> load(const std::string& name) const override {
    EXPECT_EQ(active_.fetch_add(1), 0);
    ++loads;
    struct Leave {
      std::atomic<int>& count;
      ~Leave() { --count; }
    } leave{active_};
    return weights_.load(name);
  }

  mutable std::atomic<int> loads = 0;

 private:
  test::FakeWeights weights_{test::small_config()};
  mutable std::atomic<int> active_ = 0;
};

class PrefetchedSourceTest : public ::testing::Test {
 protected:
  std::shared_ptr<CountingSource> base_ = std::make_shared<CountingSource>();
  PrefetchedSource source_{base_};
};

TEST_F(PrefetchedSourceTest, GivesTheBasesTensorsAheadOrNot) {
  const std::vector<std::string> names = block_tensors(source_, 1);
  ASSERT_EQ(names.size(), 9u);  // two norms and seven linears
  const test::FakeWeights weights(test::small_config());
  source_.prefetch(names);
  for (const int64_t layer : {0, 1}) {
    for (const std::string& name : block_tensors(source_, layer)) {
      const Matrix<float> expected = weights.load(name);
      const Matrix<float> loaded = source_.load(name);
      ASSERT_EQ(loaded.rows(), expected.rows());
      for (int64_t i = 0; i < loaded.size(); ++i)
        ASSERT_EQ(loaded.data()[i], expected.data()[i]) << name;
    }
  }
}

TEST_F(PrefetchedSourceTest, EachTensorIsLoadedOnce) {
  const std::vector<std::string> names = block_tensors(source_, 0);
  source_.prefetch(names);
  for (const std::string& name : names) source_.load(name);
  EXPECT_EQ(base_->loads, 9);
  source_.load(names[0]);  // given away before
  EXPECT_EQ(base_->loads, 10);
}

TEST_F(PrefetchedSourceTest, WhatWentWrongIsThrownWhereTheTensorIsWanted) {
  source_.prefetch({"no.such.tensor"});
  EXPECT_THROW(source_.load("no.such.tensor"), Error);
}

TEST_F(PrefetchedSourceTest, WhatNobodyTakesIsDropped) {
  source_.prefetch(block_tensors(source_, 0));
  source_.prefetch(block_tensors(source_, 1));
  for (const std::string& name : block_tensors(source_, 1)) source_.load(name);
  source_.prefetch(block_tensors(source_, 0));  // still loading when the source goes away
}

}  // namespace
}  // namespace d2q
