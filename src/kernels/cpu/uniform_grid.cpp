#include "kernels/cpu/uniform_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/half.h"

namespace d2q {
namespace {

constexpr int kClipSteps = 80;
constexpr int64_t kChunk = 32;  // errors are summed this many at a time before the early exit

/// Nearest integer, ties to even, for |x| < 2^22: one add and one subtract, which every ISA vectorises.
inline float round_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

inline float power_2_4_inline(float x) {
  // 2^(2.4·log2|x|). log2 of the mantissa in [1/√2, √2) by an odd series in (m−1)/(m+1), 2^f by its
  // Taylor polynomial on [−1/2, 1/2].
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7fffffffu;
  const uint32_t shifted = bits - 0x3f3504f3u;
  const auto exponent = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float m = std::bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u);
  const float t = (m - 1.0f) / (m + 1.0f);
  const float t2 = t * t;
  const float log2_m =
      t * (2.88539008f + t2 * (0.961796694f + t2 * (0.577078016f + t2 * 0.412198583f)));
  const float y = 2.4f * (exponent + log2_m);
  const float clamped = y < -126.0f ? -126.0f : y;
  const float whole = round_even(clamped);
  const float f = clamped - whole;
  const float two_f =
      1.0f + f * (0.693147181f +
                  f * (0.240226507f +
                       f * (0.0555041087f + f * (0.00961812911f + f * (0.00133335581f + f * 1.54035304e-4f)))));
  const float power =
      std::bit_cast<float>(std::bit_cast<int32_t>(two_f) + (static_cast<int32_t>(whole) << 23));
  return bits == 0 ? 0.0f : power;
}

/// Σ|w − ŵ|^2.4, given up once it exceeds `bound`.
float clip_error(const float* values, int64_t n, UniformParams params, float max_code, float bound) {
  const float inverse = 1.0f / params.scale;
  float total = 0.0f;
  for (int64_t begin = 0; begin < n && total < bound; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    float errors[kChunk];
    for (int64_t i = 0; i < count; ++i) {
      const float w = values[begin + i];
      float q = round_even(w * inverse) + params.zero;
      q = q < 0.0f ? 0.0f : q;
      q = q > max_code ? max_code : q;
      errors[i] = power_2_4_inline(w - params.scale * (q - params.zero));
    }
    for (int64_t i = 0; i < count; ++i) total += errors[i];
  }
  return total;
}

/// Scale and zero for a range, rounded to what fp16 holds so that the fit is judged as it is stored.
UniformParams params_for_range(float low, float high, float max_code) {
  const float smallest = to_float(Half{1});
  float scale = to_float(to_half(std::min((high - low) / max_code, kHalfMax)));
  scale = std::max(scale, smallest);
  return {scale, std::clamp(round_even(-low / scale), 0.0f, max_code)};
}

}  // namespace

float power_2_4(float x) { return power_2_4_inline(x); }

UniformParams fit_uniform(const float* values, int64_t n, int bits, bool clip_search) {
  const auto max_code = static_cast<float>((1 << bits) - 1);
  float low = 0.0f;
  float high = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  if (low == 0.0f && high == 0.0f) return {1.0f, 0.0f};
  UniformParams best = params_for_range(low, high, max_code);
  if (!clip_search) return best;
  float best_error = std::numeric_limits<float>::infinity();
  for (int step = 0; step < kClipSteps; ++step) {
    const float p = 1.0f - static_cast<float>(step) / 100.0f;
    const UniformParams candidate = params_for_range(p * low, p * high, max_code);
    const float error = clip_error(values, n, candidate, max_code, best_error);
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  return best;
}

}  // namespace d2q
