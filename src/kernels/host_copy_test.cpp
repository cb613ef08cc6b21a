#include "kernels/host_copy.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

class HostCopyTest : public ::testing::Test {
 protected:
  ThreadPool pool_{1};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(HostCopyTest, WhatGoesToTheDeviceComesBack) {
  Matrix<float> matrix(3, 5);
  for (int64_t i = 0; i < matrix.size(); ++i)
    matrix.data()[i] = 0.1f * static_cast<float>(i) - 0.7f;
  const Matrix<float> back = to_host<float>(*device_, to_device(*device_, matrix));
  ASSERT_EQ(back.rows(), 3);
  ASSERT_EQ(back.cols(), 5);
  for (int64_t i = 0; i < matrix.size(); ++i) EXPECT_EQ(back.data()[i], matrix.data()[i]);
}

TEST_F(HostCopyTest, TheDeviceRoundsToTheDtypeAskedFor) {
  // 2^-12 lies below half a unit of both: bf16 has 7 bits of fraction, f16 10.
  const std::vector<float> values = {1.0f + 0x1p-12f, -2.5f};
  const auto half = to_host<Half>(*device_, to_device(*device_, values, 1, 2, DType::kF16));
  const auto brain = to_host<BFloat16>(*device_, to_device(*device_, values, 1, 2, DType::kBF16));
  EXPECT_EQ(to_float(half(0, 0)), 1.0f);
  EXPECT_EQ(to_float(half(0, 1)), -2.5f);
  EXPECT_EQ(to_float(brain(0, 0)), 1.0f);
  EXPECT_EQ(to_float(brain(0, 1)), -2.5f);
}

TEST_F(HostCopyTest, AnotherDtypeIsAConvertedCopyAndTheSameOneIsItself) {
  const std::vector<float> values = {1.0f + 0x1p-12f, -2.5f};
  const Tensor tensor = to_device(*device_, values, 1, 2);
  EXPECT_EQ(in_dtype(*device_, tensor, DType::kF32).raw(), tensor.raw());
  const auto half = to_host<Half>(*device_, in_dtype(*device_, tensor, DType::kF16));
  EXPECT_EQ(to_float(half(0, 0)), 1.0f);
  EXPECT_EQ(to_float(half(0, 1)), -2.5f);
  EXPECT_TRUE(in_dtype(*device_, Tensor{}, DType::kBF16).empty());
}

TEST_F(HostCopyTest, AWrongCountOrDtypeIsOurBug) {
  const std::vector<float> values(6);
  EXPECT_THROW(to_device(*device_, values, 2, 4), InternalError);
  EXPECT_THROW(to_host<double>(*device_, to_device(*device_, values, 2, 3)), InternalError);
}

}  // namespace
}  // namespace d2q
