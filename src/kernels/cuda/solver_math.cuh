// Arithmetic that the solver's kernels share: grids, rounding to what is stored, sums over the
// lanes of a row. The formulas and their order are those of the CPU's lanes (solver_lanes_inl.h).
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLargestHalf = 65504.0f;
constexpr float kSmallestHalf = 5.9604644775390625e-8f;

__device__ inline float round_to_half(float x) { return __half2float(__float2half_rn(x)); }

__device__ inline float clamp_to(float x, float low, float high) {
  return fminf(fmaxf(x, low), high);
}

/// Sum over `lanes` neighbouring threads (a power of two), the same bits in all of them.
template <int kLanes, typename T>
__device__ inline T lane_sum(T x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(kAllLanes, x, offset, kLanes);
  return x;
}

/// One row's grid in one group. kLevels = 0: uniform, parameters {scale, zero}; else 2^planes
/// sign-plane levels, parameters r.
template <int kLevels>
struct RowGrid {
  float level[kLevels];

  __device__ void load(const float* params, float /*max_code*/) {
#pragma unroll
    for (int code = 0; code < kLevels; ++code) {
      float sum = 0.0f;
#pragma unroll
      for (int p = 0; 1 << p < kLevels; ++p) sum += (code >> p & 1) != 0 ? params[p] : -params[p];
      level[code] = sum;
    }
  }
  /// Nearest level to w, the first of equals.
  __device__ void nearest(float c, float w, float& q, int& code) const {
    q = c * level[0];
    code = 0;
    float distance = fabsf(w - q);
#pragma unroll
    for (int k = 1; k < kLevels; ++k) {
      const float value = c * level[k];
      const float d = fabsf(w - value);
      const bool nearer = d < distance;
      q = nearer ? value : q;
      code = nearer ? k : code;
      distance = nearer ? d : distance;
    }
  }
};

template <>
struct RowGrid<0> {
  float scale;
  float zero;
  float max_code;

  __device__ void load(const float* params, float largest) {
    scale = params[0];
    zero = params[1];
    max_code = largest;
  }
  __device__ void nearest(float /*c*/, float w, float& q, int& code) const {
    const float rounded = clamp_to(rintf(w / scale + zero), 0.0f, max_code);
    code = static_cast<int>(rounded);
    q = scale * (rounded - zero);
  }
};

}  // namespace d2q::cuda
