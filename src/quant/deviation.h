// METHOD.md §6, Deviation-Aware Correction: the mean shift of a norm's output.
#pragma once

#include <cstdint>
#include <vector>

#include "base/matrix.h"
#include "quant/options.h"

namespace d2q {

struct DeviationShift {
  std::vector<float> shift;  // μ [n]; 0 in channels that the gate leaves out
  double mse_before = 0.0;   // mean over tokens and channels of (H − H̃)²
  double mse_after = 0.0;    // the same once μ is added
  double mean_snr = 0.0;     // mean over channels of |mean| / std of H − H̃
  int64_t corrected = 0;     // channels with a shift
};

/// moments [2, n]: Σ (H − H̃) and Σ (H − H̃)² over n_tokens tokens, H the teacher. μ is clipped to
/// ±10.
DeviationShift deviation_shift(const Matrix<double>& moments, int64_t n_tokens,
                               const ShiftGate& gate);

}  // namespace d2q
