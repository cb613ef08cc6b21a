#include "quant/tuned_parameters.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "kernels/host_copy.h"
#include "quant/testing/reconstruct.h"

namespace d2q {
namespace {

class TunedParametersTest : public ::testing::Test {
 protected:
  /// Sign planes of 3 x 20 with groups of 8, the last one shorter.
  LinearSolution solution(int bits) {
    LinearSolution result;
    result.layout = {PackedKind::kSignPlanes, bits, 3, 20, 8};
    for (int64_t i = 0; i < 3 * 20; ++i)
      result.codes.push_back(static_cast<uint8_t>(rng_.below(uint64_t{1} << bits)));
    for (int64_t i = 0; i < 3 * 3 * bits; ++i)
      result.params.push_back(to_float(to_half(static_cast<float>(rng_.gaussian()))));
    result.column_scale.assign(20, 1.0f);
    return result;
  }
  /// A uniform grid of 3 x 20 with groups of 8.
  LinearSolution uniform_solution(int bits) {
    LinearSolution result = solution(bits);
    result.layout.kind = PackedKind::kUniform;
    result.params.clear();
    for (int64_t i = 0; i < 3 * 3; ++i) {
      result.params.push_back(to_float(to_half(static_cast<float>(rng_.gaussian()))));
      result.params.push_back(static_cast<float>(rng_.below(uint64_t{1} << bits)));
    }
    return result;
  }
  Matrix<float> weights_of(const TunedScales& scales) {
    const Tensor weight = device_->allocate(3, 20, DType::kF32);
    scales.reconstruct(weight);
    return to_host<float>(*device_, weight);
  }

  static void expect_equal(const Matrix<float>& a, const Matrix<float>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (int64_t i = 0; i < a.size(); ++i) EXPECT_EQ(a.data()[i], b.data()[i]) << i;
  }

  Rng rng_{5};
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(TunedParametersTest, ScalesStartWhereTheSolutionStands) {
  for (const int bits : {2, 3}) {
    const LinearSolution start = solution(bits);
    const TunedScales scales(*device_, start);
    expect_equal(weights_of(scales), test::reconstruct(start));
    LinearSolution stored = start;
    scales.round();
    scales.store(stored);
    expect_equal(test::reconstruct(stored), test::reconstruct(start));
    for (const float scale : stored.params) EXPECT_GE(scale, 0.0f);
  }
}

TEST_F(TunedParametersTest, AScaleThatBecomesNegativeFlipsItsCodes) {
  for (const int bits : {2, 3}) {
    const LinearSolution start = solution(bits);
    const TunedScales scales(*device_, start);
    // Along the weight itself every scale falls, at Adam's full rate of 0.5% a step.
    const Tensor slope = device_->allocate(3, 20, DType::kF32);
    scales.reconstruct(slope);
    for (int64_t step = 1; step <= 300; ++step) scales.update(slope, {step, 1'000'000'000});
    scales.round();
    LinearSolution stored = start;
    scales.store(stored);
    EXPECT_NE(stored.codes, start.codes);
    for (const float scale : stored.params) {
      EXPECT_GE(scale, 0.0f);
      EXPECT_EQ(scale, to_float(to_half(scale)));
    }
    expect_equal(test::reconstruct(stored), weights_of(scales));
  }
}

TEST_F(TunedParametersTest, UniformGridsStartWhereTheSolutionStands) {
  for (const int bits : {2, 3, 4, 6}) {
    const LinearSolution start = uniform_solution(bits);
    ASSERT_TRUE(TunedScales::takes(start.layout));
    const TunedScales scales(*device_, start);
    const Matrix<float> found = weights_of(scales), expected = test::reconstruct(start);
    for (int64_t i = 0; i < expected.size(); ++i) {
      // Sums of bits + 1 summands up to scale · 2^bits.
      EXPECT_NEAR(found.data()[i], expected.data()[i], 4 * std::ldexp(1e-7, bits) * (bits + 1));
    }
    LinearSolution stored = start;
    scales.round();
    scales.store(stored);
    EXPECT_EQ(stored.params, start.params);
    EXPECT_EQ(stored.codes, start.codes);
  }
  EXPECT_FALSE(TunedScales::takes({PackedKind::kUniform, 8, 3, 20, 8}));
}

TEST_F(TunedParametersTest, UniformGridsMoveTheirScalesAndKeepTheirZeros) {
  const LinearSolution start = uniform_solution(4);
  const TunedScales scales(*device_, start);
  // The loss falls where the weights of the first group of row 1 shrink, and nowhere else.
  const Tensor slope = device_->allocate(3, 20, DType::kF32);
  device_->fill_zero(slope);
  const Matrix<float> weights = weights_of(scales);
  for (int64_t j = 0; j < 8; ++j) slope.data<float>()[20 + j] = weights(1, j);
  scales.update(slope, {1, 1});
  const Matrix<float> moved = weights_of(scales);
  for (int64_t i = 0; i < 3; ++i) {
    for (int64_t j = 0; j < 20; ++j) {
      const double factor = i == 1 && j < 8 ? 0.995 : 1.0;
      EXPECT_NEAR(moved(i, j), factor * static_cast<double>(weights(i, j)), 1e-5) << i << " " << j;
    }
  }
  LinearSolution stored = start;
  scales.round();
  scales.store(stored);
  for (size_t i = 0; i < start.params.size(); ++i) {
    const float expected = i == 6 ? to_float(to_half(0.995f * start.params[i])) : start.params[i];
    EXPECT_NEAR(stored.params[i], expected, 1e-3f * std::abs(expected)) << i;
    EXPECT_EQ(stored.params[i], to_float(to_half(stored.params[i])));
  }
  EXPECT_NE(stored.params[6], start.params[6]);
  const Matrix<float> rounded = weights_of(scales), expected = test::reconstruct(stored);
  for (int64_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(rounded.data()[i], expected.data()[i], 1e-5);
}

TEST_F(TunedParametersTest, RatesRiseOverTheWarmUp) {
  const Tensor value = device_->allocate(1, 1, DType::kF32);
  const Tensor slope = device_->allocate(1, 1, DType::kF32);
  device_->fill_zero(value);
  *slope.data<float>() = 3.0f;
  const AdamParameter parameter(*device_, value, 0.5);
  // 0.5 · (1/2 · 1 + 3/4 + 2/4 + 1/4).
  for (int64_t step = 1; step <= 4; ++step) parameter.update(slope, {step, 4, 2});
  EXPECT_NEAR(*value.data<float>(), -1.0f, 1e-5f);
}

TEST_F(TunedParametersTest, RatesFallToNothingBehindTheLastStep) {
  const Tensor value = device_->allocate(1, 1, DType::kF32);
  const Tensor slope = device_->allocate(1, 1, DType::kF32);
  device_->fill_zero(value);
  *slope.data<float>() = 3.0f;
  const AdamParameter parameter(*device_, value, 0.5);
  // A constant slope moves Adam by its rate: 0.5 · (1 + 3/4 + 2/4 + 1/4).
  for (int64_t step = 1; step <= 4; ++step) parameter.update(slope, {step, 4});
  EXPECT_NEAR(*value.data<float>(), -1.25f, 1e-5f);
}

TEST_F(TunedParametersTest, ANormGetsItsOwnGainAndAShiftOfZero) {
  NormParams params;
  params.gain = to_device(*device_, std::vector<float>{0.5f, -1.5f}, 1, 2);
  const Tensor original = params.gain;
  const TunedNorm norm(*device_, params);
  EXPECT_EQ(params.shift.data<float>()[0], 0.0f);
  norm.gradient().gain.data<float>()[1] = 2.0f;
  norm.gradient().shift.data<float>()[0] = -2.0f;
  norm.update({1, 1});
  EXPECT_EQ(original.data<float>()[1], -1.5f);
  // Gains move in proportion to their mean magnitude, which is 1 here.
  EXPECT_NEAR(params.gain.data<float>()[1], -1.505f, 1e-6f);
  EXPECT_EQ(params.gain.data<float>()[0], 0.5f);
  EXPECT_NEAR(params.shift.data<float>()[0], 1e-3f, 1e-7f);
  EXPECT_EQ(norm.gradient().gain.data<float>()[1], 0.0f);
}

}  // namespace
}  // namespace d2q
