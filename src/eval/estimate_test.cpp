#include "eval/estimate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace d2q {
namespace {

TEST(Estimate, mean_and_error_of_independent_values) {
  const std::vector<double> values = {1.0, 0.0, 0.0, 1.0, 1.0};
  const Estimate estimate = estimate_mean(values);
  EXPECT_DOUBLE_EQ(estimate.mean, 0.6);
  // Sample variance 0.3, of the mean 0.06.
  EXPECT_NEAR(estimate.standard_error.value(), std::sqrt(0.06), 1e-15);
  EXPECT_FALSE(estimate_mean(std::span(values).first(1)).standard_error);
}

TEST(Estimate, windows_of_equal_size_are_independent_values) {
  const std::vector<double> means = {2.0, 3.5, 1.0};
  std::vector<WindowSum> windows;
  for (const double mean : means) windows.push_back({mean * 10.0, 10});
  const Estimate expected = estimate_mean(means);
  const Estimate estimate = estimate_mean(windows);
  EXPECT_DOUBLE_EQ(estimate.mean, expected.mean);
  EXPECT_NEAR(*estimate.standard_error, *expected.standard_error, 1e-14);
}

TEST(Estimate, windows_count_by_their_tokens) {
  const std::vector<WindowSum> windows = {{30.0, 10}, {5.0, 5}};
  EXPECT_DOUBLE_EQ(estimate_mean(windows).mean, 35.0 / 15.0);
  EXPECT_FALSE(estimate_mean(std::span(windows).first(1)).standard_error);
}

TEST(Estimate, quantiles_lie_between_ranks) {
  const std::vector<double> sorted = {1.0, 2.0, 4.0, 8.0};
  EXPECT_DOUBLE_EQ(quantile(sorted, 0.0), 1.0);
  EXPECT_DOUBLE_EQ(quantile(sorted, 0.5), 3.0);
  EXPECT_DOUBLE_EQ(quantile(sorted, 1.0), 8.0);
}

}  // namespace
}  // namespace d2q
