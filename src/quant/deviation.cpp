#include "quant/deviation.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"

namespace d2q {
namespace {

constexpr double kLargestShift = 10.0;

/// The SNR from which a channel is corrected.
double snr_threshold(const std::vector<double>& snr, const ShiftGate& gate) {
  switch (gate.kind) {
    case ShiftGate::Kind::kNone:
      return 0.0;
    case ShiftGate::Kind::kSnr:
      return gate.threshold;
    case ShiftGate::Kind::kExplained:
      // snr²/(1+snr²) >= t
      return gate.threshold >= 1.0 ? HUGE_VAL : std::sqrt(gate.threshold / (1.0 - gate.threshold));
    case ShiftGate::Kind::kTopFraction: {
      std::vector<double> sorted = snr;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      const auto count =
          static_cast<size_t>(std::ceil(gate.threshold * static_cast<double>(sorted.size())));
      return count == 0 ? HUGE_VAL : sorted[std::min(count, sorted.size()) - 1];
    }
  }
  return 0.0;
}

}  // namespace

DeviationShift deviation_shift(const Matrix<double>& moments, int64_t n_tokens,
                               const ShiftGate& gate) {
  D2Q_CHECK(moments.rows() == 2 && n_tokens > 0, "moments of {} rows, {} tokens", moments.rows(),
            n_tokens);
  const int64_t n = moments.cols();
  const auto tokens = static_cast<double>(n_tokens);
  std::vector<double> snr(static_cast<size_t>(n));
  for (int64_t j = 0; j < n; ++j) {
    const double mean = moments(0, j) / tokens;
    const double variance = std::max(0.0, moments(1, j) / tokens - mean * mean);
    snr[static_cast<size_t>(j)] =
        mean == 0.0 ? 0.0 : std::abs(mean) / std::sqrt(std::max(variance, 1e-30));
  }
  const double threshold = snr_threshold(snr, gate);
  DeviationShift result;
  result.shift.assign(static_cast<size_t>(n), 0.0f);
  for (int64_t j = 0; j < n; ++j) {
    const double mean = moments(0, j) / tokens;
    const double square = moments(1, j) / tokens;
    const bool corrected = snr[static_cast<size_t>(j)] >= threshold;
    const double shift = corrected ? std::clamp(mean, -kLargestShift, kLargestShift) : 0.0;
    result.shift[static_cast<size_t>(j)] = static_cast<float>(shift);
    result.corrected += corrected ? 1 : 0;
    result.mse_before += square / static_cast<double>(n);
    result.mse_after += (square - 2.0 * shift * mean + shift * shift) / static_cast<double>(n);
    result.mean_snr += snr[static_cast<size_t>(j)] / static_cast<double>(n);
  }
  return result;
}

}  // namespace d2q
