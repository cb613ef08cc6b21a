#include "kernels/cuda/solver_fit_kernels.h"
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"

namespace d2q::cuda {
namespace {

constexpr int kClipSteps = 80;
constexpr int kStepsPerLane = (kClipSteps + kWarp - 1) / kWarp;
constexpr float kInfinity = __builtin_huge_valf();

struct UniformParams {
  float scale;
  float zero;
};

/// Scale and zero for a range, rounded to what fp16 holds so that the fit is judged as it is
/// stored.
__device__ UniformParams params_for_range(float low, float high, float max_code) {
  const float scale =
      fmaxf(round_to_half(fminf((high - low) / max_code, kLargestHalf)), kSmallestHalf);
  return {scale, clamp_to(rintf(-low / scale), 0.0f, max_code)};
}

/// |x|^2.4 to 2e-5 relative, by the series of the CPU's lanes.
__device__ float power_2_4(float x) {
  const int bits = __float_as_int(x) & 0x7fffffff;
  const int shifted = bits - 0x3f3504f3;
  const float exponent = static_cast<float>(shifted >> 23);
  const float m = __int_as_float((shifted & 0x007fffff) + 0x3f3504f3);
  const float t = (m - 1.0f) / (m + 1.0f);
  const float t2 = t * t;
  const float log2_m =
      t * (2.88539008f + t2 * (0.961796694f + t2 * (0.577078016f + t2 * 0.412198583f)));
  const float y = fmaxf(2.4f * (exponent + log2_m), -126.0f);
  const float whole = rintf(y);
  const float f = y - whole;
  const float two_f =
      1.0f + f * (0.693147181f +
                  f * (0.240226507f +
                       f * (0.0555041087f +
                            f * (0.00961812911f + f * (0.00133335581f + f * 1.54035304e-4f)))));
  const float power = __int_as_float(__float_as_int(two_f) + static_cast<int>(whole) * (1 << 23));
  return bits == 0 ? 0.0f : power;
}

/// One warp a row. Each lane judges up to three shrink factors over all values in their order, so
/// that an error does not depend on the lanes.
__global__ void __launch_bounds__(kSolverThreads)
    fit_uniform_kernel(const FitGroup group, float max_code, bool clip_search) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= group.rows) return;  // a whole warp
  const float* values = group.data + row * group.stride;
  float* params = group.params + row * group.params_stride;
  float low = 0.0f;
  float high = 0.0f;
  for (int j = lane; j < group.cols; j += kWarp) {
    low = fminf(low, values[j]);
    high = fmaxf(high, values[j]);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    low = fminf(low, __shfl_xor_sync(kAllLanes, low, offset));
    high = fmaxf(high, __shfl_xor_sync(kAllLanes, high, offset));
  }
  UniformParams best = {1.0f, 0.0f};
  if (low == 0.0f && high == 0.0f) {
    // Nothing to fit.
  } else if (!clip_search) {
    best = params_for_range(low, high, max_code);
  } else {
    UniformParams candidate[kStepsPerLane];
    float inverse[kStepsPerLane];
    float error[kStepsPerLane];
#pragma unroll
    for (int k = 0; k < kStepsPerLane; ++k) {
      const float p = 1.0f - static_cast<float>(min(lane + k * kWarp, kClipSteps - 1)) / 100.0f;
      candidate[k] = params_for_range(p * low, p * high, max_code);
      inverse[k] = 1.0f / candidate[k].scale;
      error[k] = 0.0f;
    }
    for (int first = 0; first < group.cols; first += kWarp) {
      const int count = min(kWarp, group.cols - first);
      const float mine = lane < count ? values[first + lane] : 0.0f;
      for (int i = 0; i < count; ++i) {
        const float w = __shfl_sync(kAllLanes, mine, i);
#pragma unroll
        for (int k = 0; k < kStepsPerLane; ++k) {
          const float q = clamp_to(rintf(w * inverse[k]) + candidate[k].zero, 0.0f, max_code);
          error[k] += power_2_4(w - candidate[k].scale * (q - candidate[k].zero));
        }
      }
    }
    // The least error, the first of equals; no candidate at all when every error is infinite.
    float best_error = kInfinity;
    int best_step = kClipSteps;
#pragma unroll
    for (int k = 0; k < kStepsPerLane; ++k) {
      const int step = lane + k * kWarp;
      if (step >= kClipSteps || !(error[k] < best_error)) continue;
      best_error = error[k];
      best_step = step;
      best = candidate[k];
    }
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const float other_error = __shfl_xor_sync(kAllLanes, best_error, offset);
      const int other_step = __shfl_xor_sync(kAllLanes, best_step, offset);
      const float other_scale = __shfl_xor_sync(kAllLanes, best.scale, offset);
      const float other_zero = __shfl_xor_sync(kAllLanes, best.zero, offset);
      if (other_error < best_error || (other_error == best_error && other_step < best_step)) {
        best_error = other_error;
        best_step = other_step;
        best = {other_scale, other_zero};
      }
    }
  }
  if (lane == 0) {
    params[0] = best.scale;
    params[1] = best.zero;
  }
}

}  // namespace

cudaError_t fit_uniform(const FitGroup& group, float max_code, bool clip_search,
                        cudaStream_t stream) {
  return launch(fit_uniform_kernel, row_blocks(group.rows, kWarp), kSolverThreads, stream, group,
                max_code, clip_search);
}

}  // namespace d2q::cuda
