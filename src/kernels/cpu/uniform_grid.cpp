#include "kernels/cpu/uniform_grid.h"

#include <algorithm>
#include <limits>

#include "base/half.h"

namespace d2q {
namespace {

constexpr int kClipSteps = 80;

/// Nearest integer, ties to even, for |x| < 2^22.
float round_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

/// Scale and zero for a range, rounded to what fp16 holds so that the fit is judged as it is
/// stored.
UniformParams params_for_range(float low, float high, float max_code) {
  const float smallest = to_float(Half{1});
  float scale = to_float(to_half(std::min((high - low) / max_code, kHalfMax)));
  scale = std::max(scale, smallest);
  return {scale, std::clamp(round_even(-low / scale), 0.0f, max_code)};
}

}  // namespace

UniformParams fit_uniform(const SolverKernels& kernels, const float* values, int64_t n, int bits,
                          bool clip_search) {
  const auto max_code = static_cast<float>((1 << bits) - 1);
  float low = 0.0f;
  float high = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  if (low == 0.0f && high == 0.0f) return {1.0f, 0.0f};
  if (!clip_search) return params_for_range(low, high, max_code);
  static_assert(kClipSteps % kSolverLanes == 0);
  UniformParams best;
  float best_error = std::numeric_limits<float>::infinity();
  for (int first = 0; first < kClipSteps; first += kSolverLanes) {
    float scales[kSolverLanes];
    float zeros[kSolverLanes];
    float errors[kSolverLanes];
    for (int lane = 0; lane < kSolverLanes; ++lane) {
      const float p = 1.0f - static_cast<float>(first + lane) / 100.0f;
      const UniformParams candidate = params_for_range(p * low, p * high, max_code);
      scales[lane] = candidate.scale;
      zeros[lane] = candidate.zero;
    }
    kernels.clip_errors(values, n, scales, zeros, max_code, errors);
    for (int lane = 0; lane < kSolverLanes; ++lane) {
      if (errors[lane] >= best_error) continue;
      best_error = errors[lane];
      best = {scales[lane], zeros[lane]};
    }
  }
  return best;
}

}  // namespace d2q
