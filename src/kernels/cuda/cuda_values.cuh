// Device functions that the forward's kernels share: typed loads and stores, fixed-order
// reductions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

#include "kernels/cuda/cuda_forward_kernels.h"
#include "kernels/cuda/cuda_launch.h"

namespace d2q::cuda {

__device__ inline float load_value(const Values& x, int64_t i) {
  switch (x.type) {
    case Scalar::kF32:
      return static_cast<const float*>(x.data)[i];
    case Scalar::kBF16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(x.data)[i]);
    case Scalar::kF16:
      return __half2float(static_cast<const __half*>(x.data)[i]);
    case Scalar::kF64:
      return static_cast<float>(static_cast<const double*>(x.data)[i]);
  }
  return 0.0f;
}

__device__ inline void store_value(const Values& y, int64_t i, float value) {
  switch (y.type) {
    case Scalar::kF32:
      static_cast<float*>(y.data)[i] = value;
      return;
    case Scalar::kBF16:
      static_cast<__nv_bfloat16*>(y.data)[i] = __float2bfloat16_rn(value);
      return;
    case Scalar::kF16:
      static_cast<__half*>(y.data)[i] = __float2half_rn(value);
      return;
    case Scalar::kF64:
      static_cast<double*>(y.data)[i] = static_cast<double>(value);
      return;
  }
}

/// Four elements from i on, in one access: few bytes a thread would leave the memory waiting.
/// x is aligned_for_four().
struct FourValues {
  float of[4];
};

__device__ inline FourValues load_four(const Values& x, int64_t i) {
  FourValues result;
  if (x.type == Scalar::kF32) {
    const float4 four = *reinterpret_cast<const float4*>(static_cast<const float*>(x.data) + i);
    result = {four.x, four.y, four.z, four.w};
  } else if (x.type == Scalar::kF64) {
    for (int k = 0; k < 4; ++k) result.of[k] = load_value(x, i + k);
  } else {
    const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(x.data) + i);
    const unsigned words[2] = {raw.x, raw.y};
    for (int k = 0; k < 4; ++k) {
      const auto bits = static_cast<unsigned short>(words[k / 2] >> k % 2 * 16);
      result.of[k] = x.type == Scalar::kBF16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                                             : __half2float(__ushort_as_half(bits));
    }
  }
  return result;
}

__device__ inline void store_four(const Values& y, int64_t i, const FourValues& four) {
  const float* x = four.of;
  if (y.type == Scalar::kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(y.data) + i) =
        make_float4(x[0], x[1], x[2], x[3]);
  } else if (y.type == Scalar::kF64) {
    for (int k = 0; k < 4; ++k) store_value(y, i + k, x[k]);
  } else {
    unsigned words[2] = {};
    for (int k = 0; k < 4; ++k) {
      const unsigned bits = y.type == Scalar::kBF16
                                ? __bfloat16_as_ushort(__float2bfloat16_rn(x[k]))
                                : __half_as_ushort(__float2half_rn(x[k]));
      words[k / 2] |= bits << k % 2 * 16;
    }
    *reinterpret_cast<uint2*>(static_cast<uint16_t*>(y.data) + i) = make_uint2(words[0], words[1]);
  }
}

/// Whether four elements are one access from the first of x on.
inline bool aligned_for_four(const Values& x) {
  const uintptr_t bytes = x.type == Scalar::kF32 ? 16 : 8;
  return reinterpret_cast<uintptr_t>(x.data) % bytes == 0;
}

/// This thread's element of a launch with one thread an element.
__device__ inline int64_t element_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// act(x).
__device__ inline float activation_of(Curve curve, float x) {
  switch (curve) {
    case Curve::kSilu:
      return __fdividef(x, 1.0f + expf(-x));  // no call for what cannot be
    case Curve::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Curve::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case Curve::kRelu:
      return x < 0.0f ? 0.0f : x;  // keeps NaN
  }
  return x;
}

/// a / b for 0 <= a < 2^20 and per_b = 1 / b: integer divisions take a hundred cycles.
__device__ inline int divide(int a, float per_b) {
  return static_cast<int>((static_cast<float>(a) + 0.5f) * per_b);
}

/// A thread's place in its block of threads.
struct ThreadPlace {
  int lane;
  int warp;

  __device__ int thread() const { return 32 * warp + lane; }
};
/// As if it changed from call to call: what follows from it is computed anew each time, where it
/// would otherwise be kept in registers through all of a long loop.
__device__ inline ThreadPlace place_of_thread() {
  unsigned thread = threadIdx.x;
  asm volatile("" : "+r"(thread));
  const ThreadPlace place = {static_cast<int>(thread % 32), static_cast<int>(thread / 32)};
  __builtin_assume(place.warp >= 0 && place.warp < 32);
  return place;
}

/// The first kWarps warps of a block of threads, or all of them, wait for each other.
template <int kWarps>
__device__ void sync_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(32 * kWarps) : "memory");
}

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Smallest {
  __device__ int operator()(int a, int b) const { return a < b ? a : b; }
};

/// The reduction over groups of kThreadsTogether (32, or a block of kThreads) threads, in every one
/// of them. With a whole block all of its threads must call.
template <int kThreadsTogether, typename T, typename Reduce>
__device__ T reduce_threads(T value, Reduce reduce) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = reduce(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  if constexpr (kThreadsTogether > 32) {
    constexpr int kWarps = kThreadsTogether / 32;
    __shared__ T of_warp[kWarps];
    __syncthreads();  // an earlier reduction may still be reading
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp[0];
    for (int warp = 1; warp < kWarps; ++warp) value = reduce(value, of_warp[warp]);
  }
  return value;
}

}  // namespace d2q::cuda
