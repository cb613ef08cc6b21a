#include "quant/ranges.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace d2q {
namespace {

TEST(Ranges, of_a_weight) {
  Matrix<float> weight(2, 2);
  weight(0, 0) = -3.0f;
  weight(0, 1) = 1.0f;
  weight(1, 0) = 0.0f;
  weight(1, 1) = 2.0f;
  const WeightRange range = weight_range(weight);
  EXPECT_EQ(range.minimum, -3.0f);
  EXPECT_EQ(range.maximum, 2.0f);
  EXPECT_DOUBLE_EQ(range.rms, std::sqrt(14.0 / 4.0));
}

TEST(Ranges, name_the_input_channel_that_stands_out) {
  const std::vector<double> energies = {4.0, 16.0, 40000.0, 0.0, 4.0};
  const auto range = input_range(energies, 0.25);
  ASSERT_TRUE(range);
  EXPECT_DOUBLE_EQ(range->median_rms, 1.0);
  EXPECT_DOUBLE_EQ(range->largest_rms, 100.0);
  EXPECT_EQ(range->largest_channel, 2);
  EXPECT_EQ(range->outliers, 1);
  EXPECT_FALSE(input_range({}, 1.0));
}

}  // namespace
}  // namespace d2q
