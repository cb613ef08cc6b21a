#include "eval/estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace d2q {

Estimate estimate_mean(std::span<const double> values) {
  D2Q_CHECK(!values.empty(), "no values");
  const auto n = static_cast<double>(values.size());
  Estimate estimate{std::accumulate(values.begin(), values.end(), 0.0) / n, std::nullopt};
  if (values.size() < 2) return estimate;
  double squares = 0.0;
  for (const double value : values) squares += (value - estimate.mean) * (value - estimate.mean);
  estimate.standard_error = std::sqrt(squares / (n - 1.0) / n);
  return estimate;
}

Estimate estimate_mean(std::span<const WindowSum> windows) {
  D2Q_CHECK(!windows.empty(), "no windows");
  double sum = 0.0;
  double count = 0.0;
  for (const WindowSum& window : windows) {
    sum += window.sum;
    count += static_cast<double>(window.count);
  }
  Estimate estimate{sum / count, std::nullopt};
  if (windows.size() < 2) return estimate;
  double squares = 0.0;
  for (const WindowSum& window : windows) {
    const double residual = window.sum - estimate.mean * static_cast<double>(window.count);
    squares += residual * residual;
  }
  const auto n = static_cast<double>(windows.size());
  estimate.standard_error = std::sqrt(n / (n - 1.0) * squares) / count;
  return estimate;
}

double quantile(std::span<const double> sorted, double q) {
  D2Q_CHECK(!sorted.empty() && q >= 0.0 && q <= 1.0, "quantile {} of {} values", q, sorted.size());
  const double rank = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (rank - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace d2q
