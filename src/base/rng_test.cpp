#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace d2q {
namespace {

// Published sequence of xoshiro256** seeded from splitmix64(0): any change of it changes every file
// that this program writes for a given seed.
TEST(RngTest, GivesThePublishedSequence) {
  Rng rng(0);
  EXPECT_EQ(rng.next_u64(), 11091344671253066420ull);
  EXPECT_EQ(rng.next_u64(), 13793997310169335082ull);
  EXPECT_EQ(rng.next_u64(), 1900383378846508768ull);
  EXPECT_EQ(rng.next_u64(), 7684712102626143532ull);
  EXPECT_EQ(rng.next_u64(), 13521403990117723737ull);
}

TEST(RngTest, ACopyContinuesTheSameSequence) {
  Rng rng(42);
  rng.gaussian();  // leaves a spare value behind
  Rng copy = rng;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(rng.gaussian(), copy.gaussian());
}

TEST(RngTest, DifferentSeedsGiveDifferentSequences) {
  EXPECT_NE(Rng(1).next_u64(), Rng(2).next_u64());
}

TEST(RngTest, UniformStaysInItsInterval) {
  Rng rng(7);
  double sum = 0.0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double value = rng.uniform();
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
  }
  // Five standard errors of the mean of a uniform: sqrt(1/12/n).
  EXPECT_NEAR(sum / kDraws, 0.5, 5.0 * std::sqrt(1.0 / 12.0 / kDraws));
}

TEST(RngTest, BelowIsUniformOverABoundThatDividesNothing) {
  Rng rng(11);
  constexpr int kDraws = 70000;
  std::array<int, 7> counts{};
  for (int i = 0; i < kDraws; ++i) ++counts[rng.below(7)];
  // Each count is binomial with variance n p (1 - p); five standard deviations.
  const double deviation = 5.0 * std::sqrt(kDraws * (1.0 / 7) * (6.0 / 7));
  for (const int count : counts) EXPECT_NEAR(count, kDraws / 7.0, deviation);
  EXPECT_EQ(rng.below(1), 0u);
}

TEST(RngTest, GaussianHasTheMomentsOfAStandardNormal) {
  Rng rng(13);
  constexpr int kDraws = 200000;
  double sum = 0.0;
  double squares = 0.0;
  double fourth = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = rng.gaussian();
    sum += value;
    squares += value * value;
    fourth += value * value * value * value;
  }
  // Variances of x, x² and x⁴ under a normal: 1, 2 and 96.
  EXPECT_NEAR(sum / kDraws, 0.0, 5.0 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0, 5.0 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3.0, 5.0 * std::sqrt(96.0 / kDraws));
}

}  // namespace
}  // namespace d2q
