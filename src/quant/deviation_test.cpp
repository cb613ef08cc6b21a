#include "quant/deviation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"

namespace d2q {
namespace {

/// H − H̃ of `tokens` tokens: channel j has mean means[j] and deviation 1.
Matrix<double> differences(const std::vector<double>& means, int64_t tokens) {
  Rng rng(4);
  Matrix<double> result(tokens, static_cast<int64_t>(means.size()));
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < result.cols(); ++j) {
      result(t, j) = means[static_cast<size_t>(j)] + rng.gaussian();
    }
  }
  return result;
}

Matrix<double> moments_of(const Matrix<double>& difference) {
  Matrix<double> moments(2, difference.cols(), true);
  for (int64_t t = 0; t < difference.rows(); ++t) {
    for (int64_t j = 0; j < difference.cols(); ++j) {
      moments(0, j) += difference(t, j);
      moments(1, j) += difference(t, j) * difference(t, j);
    }
  }
  return moments;
}

double mse_with_shift(const Matrix<double>& difference, const std::vector<float>& shift) {
  double sum = 0.0;
  for (int64_t t = 0; t < difference.rows(); ++t) {
    for (int64_t j = 0; j < difference.cols(); ++j) {
      const double left = difference(t, j) - static_cast<double>(shift[static_cast<size_t>(j)]);
      sum += left * left;
    }
  }
  return sum / static_cast<double>(difference.size());
}

TEST(Deviation, TheShiftIsTheMeanAndLowersTheErrorAsReported) {
  const Matrix<double> difference = differences({2.0, -1.0, 0.0, 0.5}, 400);
  const DeviationShift result = deviation_shift(moments_of(difference), 400, {});
  const std::vector<float> none(4, 0.0f);
  // Means of 400 standard normals are within 0.05 · 4 of the truth.
  const double expected[] = {2.0, -1.0, 0.0, 0.5};
  for (size_t j = 0; j < 4; ++j) EXPECT_NEAR(result.shift[j], expected[j], 0.2);
  EXPECT_NEAR(result.mse_before, mse_with_shift(difference, none), 1e-9);
  EXPECT_NEAR(result.mse_after, mse_with_shift(difference, result.shift), 1e-6);  // μ is f32
  EXPECT_LT(result.mse_after, result.mse_before - 1.0);
  EXPECT_EQ(result.corrected, 4);
  EXPECT_NEAR(result.mean_snr, 3.5 / 4.0, 0.2);
}

TEST(Deviation, NoOtherShiftOfAChannelIsBetter) {
  const Matrix<double> difference = differences({0.7}, 50);
  const DeviationShift result = deviation_shift(moments_of(difference), 50, {});
  for (const float step : {-0.01f, 0.01f}) {
    EXPECT_GT(mse_with_shift(difference, {result.shift[0] + step}), result.mse_after);
  }
}

TEST(Deviation, TheShiftIsClippedAtTen) {
  const Matrix<double> difference = differences({25.0, -40.0, 9.0}, 30);
  const DeviationShift result = deviation_shift(moments_of(difference), 30, {});
  EXPECT_EQ(result.shift[0], 10.0f);
  EXPECT_EQ(result.shift[1], -10.0f);
  EXPECT_NEAR(result.shift[2], 9.0f, 0.8);
  EXPECT_NEAR(result.mse_after, mse_with_shift(difference, result.shift), 1e-6);
}

/// Channels with a signal-to-noise ratio of exactly 0, 1/2, 1 and 2: two tokens at mean ± 1.
Matrix<double> moments_with_known_snr() {
  Matrix<double> difference(2, 4);
  const double means[] = {0.0, 0.5, 1.0, -2.0};
  for (int64_t j = 0; j < 4; ++j) {
    difference(0, j) = means[j] - 1.0;
    difference(1, j) = means[j] + 1.0;
  }
  return moments_of(difference);
}

std::vector<float> gated(ShiftGate::Kind kind, double threshold) {
  const DeviationShift result = deviation_shift(moments_with_known_snr(), 2, {kind, threshold});
  int64_t corrected = 0;
  for (const float shift : result.shift) corrected += shift != 0.0f ? 1 : 0;
  // A channel whose mean is 0 counts as corrected although its shift is 0.
  EXPECT_LE(corrected, result.corrected);
  EXPECT_LE(result.corrected, corrected + 1);
  return result.shift;
}

using Shift = std::vector<float>;
using Kind = ShiftGate::Kind;

TEST(Deviation, TheSnrGateLeavesOutChannelsBelowTheThreshold) {
  EXPECT_EQ(gated(Kind::kSnr, 0.0), (Shift{0.0f, 0.5f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kSnr, 0.9), (Shift{0.0f, 0.0f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kSnr, 5.0), (Shift{0.0f, 0.0f, 0.0f, 0.0f}));
}

TEST(Deviation, TheFractionGateTakesTheChannelsWithTheLargestRatio) {
  EXPECT_EQ(gated(Kind::kTopFraction, 0.0), (Shift{0.0f, 0.0f, 0.0f, 0.0f}));
  EXPECT_EQ(gated(Kind::kTopFraction, 0.25), (Shift{0.0f, 0.0f, 0.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kTopFraction, 0.26), (Shift{0.0f, 0.0f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kTopFraction, 1.0), (Shift{0.0f, 0.5f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kTopFraction, 7.0), (Shift{0.0f, 0.5f, 1.0f, -2.0f}));
}

TEST(Deviation, TheExplainedGateComparesTheShareOfThePower) {
  // snr² / (1 + snr²) is 0, 1/5, 1/2 and 4/5.
  EXPECT_EQ(gated(Kind::kExplained, 0.19), (Shift{0.0f, 0.5f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kExplained, 0.21), (Shift{0.0f, 0.0f, 1.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kExplained, 0.79), (Shift{0.0f, 0.0f, 0.0f, -2.0f}));
  EXPECT_EQ(gated(Kind::kExplained, 1.0), (Shift{0.0f, 0.0f, 0.0f, 0.0f}));
}

TEST(Deviation, AConstantDifferenceIsRemovedWholly) {
  Matrix<double> moments(2, 2, true);
  moments(0, 0) = 8 * 0.25;
  moments(1, 0) = 8 * 0.0625;
  const DeviationShift result = deviation_shift(moments, 8, {Kind::kExplained, 0.99});
  EXPECT_EQ(result.shift, (Shift{0.25f, 0.0f}));
  EXPECT_EQ(result.mse_after, 0.0);
  EXPECT_TRUE(std::isfinite(result.mean_snr));
}

TEST(Deviation, NoTokensIsOurBug) {
  EXPECT_THROW(deviation_shift(Matrix<double>(2, 3, true), 0, {}), InternalError);
}

}  // namespace
}  // namespace d2q
