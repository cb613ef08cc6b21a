// How far the values of a linear's weights and inputs spread: what the report shows, and where its
// outliers are.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/matrix.h"

namespace d2q {

struct WeightRange {
  float minimum = 0.0f;
  float maximum = 0.0f;
  double rms = 0.0;
};

/// weight [out, in], not empty.
WeightRange weight_range(const Matrix<float>& weight);

struct InputRange {
  double median_rms = 0.0;      // over channels, of a channel's root mean square over tokens
  double largest_rms = 0.0;     // of the channel with the largest one
  int64_t largest_channel = 0;  // its index
  int64_t outliers = 0;         // channels above kOutlierRatio times the median
};

inline constexpr double kOutlierRatio = 10.0;

/// `energies`: a number for each channel in proportion to its sum of squares, `scale` of it being
/// the mean square of a token. Empty energies give nothing.
std::optional<InputRange> input_range(std::span<const double> energies, double scale);

}  // namespace d2q
