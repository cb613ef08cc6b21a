#include "base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace d2q {
namespace {

/// What a half stands for, from the definition of binary16 alone.
double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024.0 + mantissa, exponent - 25);
}

TEST(HalfTest, EveryFiniteHalfHasTheValueOfItsDefinition) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (((bits >> 10) & 31) == 31) continue;
    const auto half = static_cast<uint16_t>(bits);
    ASSERT_EQ(double{to_float(Half{half})}, half_value(half)) << bits;
    ASSERT_EQ(std::signbit(to_float(Half{half})), (bits & 0x8000) != 0) << bits;
  }
}

TEST(HalfTest, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    if (std::isnan(value)) {
      ASSERT_EQ(((bits >> 10) & 31), 31u);
      ASSERT_TRUE(std::isnan(to_float(to_half(value))));
    } else {
      ASSERT_EQ(to_half(value).bits, half.bits);
    }
  }
}

// Rounding is monotone, so it is right everywhere when it is right on both sides of, and at, every
// midpoint between neighbours.
TEST(HalfTest, RoundsRightAroundEveryMidpoint) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (uint16_t low = 0; low < 0x7bff; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    // Exact in f32: neighbours share an exponent or differ by one, and f32 has 13 more bits.
    const float middle = static_cast<float>((half_value(low) + half_value(high)) / 2);
    const uint16_t even = low % 2 == 0 ? low : high;
    for (const uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(to_half(s * middle).bits, even | sign) << low;
      ASSERT_EQ(to_half(s * std::nextafter(middle, 0.0f)).bits, low | sign) << low;
      ASSERT_EQ(to_half(s * std::nextafter(middle, infinity)).bits, high | sign) << low;
    }
  }
}

TEST(HalfTest, OverflowsToInfinityFromHalfAUnitAboveTheLargest) {
  EXPECT_EQ(to_half(kHalfMax).bits, 0x7bff);
  EXPECT_EQ(to_half(std::nextafter(65520.0f, 0.0f)).bits, 0x7bff);
  EXPECT_EQ(to_half(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_half(-1e30f).bits, 0xfc00);
  EXPECT_EQ(to_half(std::numeric_limits<float>::infinity()).bits, 0x7c00);
}

TEST(HalfTest, NanStaysNanAndKeepsItsSign) {
  const uint16_t bits = to_half(std::bit_cast<float>(0xff800001u)).bits;
  EXPECT_EQ(bits & 0xfc00, 0xfc00);
  EXPECT_NE(bits & 0x3ff, 0);
}

TEST(BFloat16Test, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BFloat16 value{static_cast<uint16_t>(bits)};
    ASSERT_EQ(std::bit_cast<uint32_t>(to_float(value)), bits << 16);
    if (std::isnan(to_float(value))) {
      ASSERT_TRUE(std::isnan(to_float(to_bfloat16(to_float(value)))));
    } else {
      ASSERT_EQ(to_bfloat16(to_float(value)).bits, value.bits);
    }
  }
}

TEST(BFloat16Test, RoundsRightAroundEveryMidpoint) {
  for (uint32_t low = 0; low < 0xffff; ++low) {
    if ((low & 0x7f80) == 0x7f80) continue;  // no neighbour above infinity
    const uint32_t middle = (low << 16) | 0x8000u;
    const uint32_t even = low + (low & 1u);
    ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle)).bits, even);
    ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle - 1)).bits, low);
    ASSERT_EQ(to_bfloat16(std::bit_cast<float>(middle + 1)).bits, low + 1);
  }
}

}  // namespace
}  // namespace d2q
