#include "quant/ranges.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace d2q {

WeightRange weight_range(const Matrix<float>& weight) {
  D2Q_CHECK(weight.size() > 0, "a weight without elements");
  const auto values = weight.span();
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  double squares = 0.0;
  for (const float value : values)
    squares += static_cast<double>(value) * static_cast<double>(value);
  return {*least, *most, std::sqrt(squares / static_cast<double>(values.size()))};
}

std::optional<InputRange> input_range(std::span<const double> energies, double scale) {
  if (energies.empty()) return std::nullopt;
  std::vector<double> rms;
  for (const double energy : energies) rms.push_back(std::sqrt(std::max(0.0, energy * scale)));
  InputRange range;
  const auto largest = std::max_element(rms.begin(), rms.end());
  range.largest_rms = *largest;
  range.largest_channel = largest - rms.begin();
  std::vector<double> sorted = rms;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  range.median_rms = *middle;
  range.outliers =
      std::ranges::count_if(rms, [&](double value) { return value > kOutlierRatio * *middle; });
  return range;
}

}  // namespace d2q
