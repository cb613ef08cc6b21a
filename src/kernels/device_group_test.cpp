#include "kernels/device_group.h"

#include <numeric>
#include <stdexcept>
#include <vector>

#include "base/testing/expect_error.h"
#include "kernels/testing/host_group.h"

namespace d2q {
namespace {

class DeviceGroupTest : public ::testing::Test {
 protected:
  /// [rows, 2] of 100 * rank + place.
  Tensor values(int rank, int64_t rows, DType dtype = DType::kF32) {
    const Tensor result = group_->device(rank).allocate(rows, 2, dtype);
    for (int64_t i = 0; i < result.size(); ++i) {
      const double value = 100.0 * rank + static_cast<double>(i);
      if (dtype == DType::kF32) {
        result.data<float>()[i] = static_cast<float>(value);
      } else {
        result.data<double>()[i] = value;
      }
    }
    return result;
  }

  std::unique_ptr<DeviceGroup> group_ = std::make_unique<test::HostGroup>(3);
};

TEST_F(DeviceGroupTest, MembersSumAndShareWhatTheyHave) {
  std::vector<std::vector<float>> seen(3);
  group_->run([&](int rank) {
    const GroupMember member(*group_, rank);
    const Tensor sum = values(rank, 2);
    member.sum(sum);
    const Tensor wide = values(rank, 1, DType::kF64);
    member.sum(wide);
    const Tensor first = values(rank, 1);
    member.share(first);
    const Tensor rows = values(rank, 4);
    const int64_t begins[] = {0, 1, 1, 4};  // the second member has none
    member.share_rows(rows, begins);
    auto& all = seen[static_cast<size_t>(rank)];
    for (const Tensor& tensor : {sum, first, rows})
      all.insert(all.end(), tensor.data<float>(), tensor.data<float>() + tensor.size());
    all.push_back(static_cast<float>(wide.data<double>()[1]));
    member.exchange(rank, [&](std::span<const int* const> ranks) {
      for (const int* one : ranks) all.push_back(static_cast<float>(*one));
    });
  });
  const std::vector<float> expected = {300, 303, 306, 309, 0,   1,   0, 1, 202,
                                       203, 204, 205, 206, 207, 303, 0, 1, 2};
  for (const auto& all : seen) EXPECT_EQ(all, expected);
}

TEST_F(DeviceGroupTest, AFailureEndsTheWorkOfAllAndIsThrownOnce) {
  for (const int failing : {0, 2}) {
    D2Q_EXPECT_ERROR(group_->run([&](int rank) {
      const GroupMember member(*group_, rank);
      const Tensor x = values(rank, 1);
      member.sum(x);
      if (rank == failing) fail(ErrorCode::kNumeric, "broken");
      for (int i = 0; i < 3; ++i) member.sum(x);
    }),
                     ErrorCode::kNumeric, "broken");
  }
  // And the group works on.
  int met = 0;
  group_->run([&](int rank) {
    GroupMember(*group_, rank).exchange(rank, [&](std::span<const int* const> all) {
      if (rank == 0) met = static_cast<int>(all.size());
    });
  });
  EXPECT_EQ(met, 3);
}

TEST(SingleGroup, IsTheDeviceByItself) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const auto group = make_single_group(*device);
  EXPECT_EQ(group->size(), 1);
  const GroupMember member(*group, 0);
  const Tensor x = group->device(0).allocate(1, 1, DType::kF32);
  x.data<float>()[0] = 5.0f;
  group->run([&](int rank) {
    EXPECT_EQ(rank, 0);
    member.sum(x);
    member.share(x);
  });
  EXPECT_EQ(x.data<float>()[0], 5.0f);
}

}  // namespace
}  // namespace d2q
