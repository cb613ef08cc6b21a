// Means with their standard errors, and quantiles.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace d2q {

struct Estimate {
  double mean = 0.0;
  std::optional<double> standard_error;  // absent with fewer than two samples
};

/// Mean of independent values; the error is their sample deviation / sqrt(n).
Estimate estimate_mean(std::span<const double> values);

/// What the tokens of one window add up to.
struct WindowSum {
  double sum = 0.0;
  int64_t count = 0;
};

/// Mean over all tokens. Tokens of one window are not independent, so the error is that of a ratio
/// of sums over windows: sqrt(n / (n - 1) Σ (sum_w - mean count_w)²) / Σ count_w.
Estimate estimate_mean(std::span<const WindowSum> windows);

/// The value below which a share `q` of `sorted` (ascending, not empty) lies, linear between ranks.
double quantile(std::span<const double> sorted, double q);

}  // namespace d2q
