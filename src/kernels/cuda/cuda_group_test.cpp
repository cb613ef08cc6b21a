// Two GPUs: what they sum, share, and read of each other's memory.
#include <memory>
#include <vector>

#include "base/testing/expect_error.h"
#include "kernels/cuda/cuda_test_support.h"
#include "kernels/device_group.h"

namespace d2q {
namespace {

class CudaGroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      group_ = make_cuda_group(2);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      GTEST_SKIP() << error.what();
    }
  }
  template <typename T>
  Tensor values(int rank, int64_t rows, int64_t cols) const {
    std::vector<T> host(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<T>(1000 * rank + static_cast<int>(i % 997));
    const Tensor result = group_->device(rank).allocate(rows, cols, dtype_of<T>());
    group_->device(rank).upload(host.data(), result);
    return result;
  }
  template <typename T>
  std::vector<T> to_host(int rank, const Tensor& tensor) const {
    std::vector<T> host(static_cast<size_t>(tensor.size()));
    group_->device(rank).download(tensor, host.data());
    return host;
  }

  std::unique_ptr<DeviceGroup> group_;
};

TEST_F(CudaGroupTest, MembersSumAndShareWhatTheyHave) {
  constexpr int64_t kRows = 1500, kCols = 1031;
  bool right[2] = {};
  group_->run([&](int rank) {
    const GroupMember member(*group_, rank);
    const Tensor sum = values<float>(rank, kRows, kCols);
    const Tensor wide = values<double>(rank, 2, 333);
    const Tensor rows = values<float>(rank, kRows, kCols);
    const Tensor first = values<float>(rank, 3, 5);
    const int64_t begins[] = {0, 512, kRows};
    member.sum(sum);
    member.sum(wide);
    member.share_rows(rows, begins);
    member.share(first);
    const auto sums = to_host<float>(rank, sum);
    const auto wides = to_host<double>(rank, wide);
    const auto shared = to_host<float>(rank, rows);
    bool all = to_host<float>(rank, first)[14] == 14.0f;
    for (size_t i = 0; i < sums.size(); ++i) {
      const auto base = static_cast<float>(i % 997);
      const bool of_second = i >= size_t{512} * kCols;
      all = all && sums[i] == 1000.0f + 2.0f * base &&
            shared[i] == base + (of_second ? 1000.0f : 0.0f);
    }
    for (size_t i = 0; i < wides.size(); ++i)
      all = all && wides[i] == 1000.0 + 2.0 * static_cast<double>(i % 997);
    right[rank] = all;
  });
  EXPECT_TRUE(right[0]);
  EXPECT_TRUE(right[1]);
}

TEST_F(CudaGroupTest, OneReadsAndWritesTheOthersMemory) {
  Tensor theirs;
  group_->run([&](int rank) {
    if (rank == 1) theirs = values<float>(1, 300, 700);
  });
  Device& device = group_->device(0);
  const Tensor mine = device.allocate(300, 700, DType::kF32);
  device.convert(theirs, mine);
  EXPECT_EQ(to_host<float>(0, mine)[999], 1002.0f);
  device.fill_zero(mine);
  device.convert(mine, theirs);
  device.synchronize();
  group_->run([&](int rank) {
    if (rank != 1) return;
    EXPECT_EQ(to_host<float>(1, theirs), std::vector<float>(300 * 700, 0.0f));
    theirs = {};
  });
}

TEST_F(CudaGroupTest, AFailureOfOneIsThrownAndTheOthersStop) {
  D2Q_EXPECT_ERROR(group_->run([&](int rank) {
    const GroupMember member(*group_, rank);
    const Tensor x = values<float>(rank, 4, 4);
    member.sum(x);
    if (rank == 1) fail(ErrorCode::kNumeric, "broken");
    member.sum(x);
  }),
                   ErrorCode::kNumeric, "broken");
}

TEST(CudaGroup, MoreGpusThanThereAreAreRefused) {
  D2Q_EXPECT_ERROR(make_cuda_group(63), ErrorCode::kUnsupported, "");
}

}  // namespace
}  // namespace d2q
