// Quantizing the activations of a decoding step; cuda_decode_kernels.h says into what.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"

namespace d2q::cuda {

/// Four columns of a row, zeros past its end.
__device__ inline float4 load_columns(const float* row, int column, int cols) {
  // Past L1: the row may have been written while this kernel was already running.
  if (column + 4 <= cols && (reinterpret_cast<uintptr_t>(row) + 4 * column) % 16 == 0) {
    return __ldcg(reinterpret_cast<const float4*>(row + column));
  }
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = column + i < cols ? __ldcg(row + column + i) : 0.0f;
  return {values[0], values[1], values[2], values[3]};
}

/// The sum over a block of threads, in every thread. scratch: a float a warp.
static __device__ __noinline__ float sum_of_block(float value, float* scratch) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  __syncthreads();  // an earlier sum may still be read
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0.0f;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / 32; ++warp) value += scratch[warp];
  return value;
}

/// A warp quantizes 128 values, four a lane. words: q1 of the block and then q2. A call, because
/// copies in unrolled loops would crowd the instruction cache, which each kernel finds cold.
static __device__ __noinline__ void quantize_block(const float4& x, unsigned* words, float* step,
                                                   int* totals) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float values[4] = {x.x, x.y, x.z, x.w};
  // As integers, absolute values order like floats do, and NaN above them all.
  unsigned top = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) top = max(top, __float_as_uint(values[i]) & 0x7fffffffu);
  const float largest = __uint_as_float(__reduce_max_sync(0xffffffffu, top));
  const float inverse = largest >= 1e-30f ? 127.0f / largest : 0.0f;
  unsigned coarse = 0, fine = 0;
  int total = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float scaled = values[i] * inverse;
    const float rounded = rintf(scaled);
    const int q1 = static_cast<int>(rounded);
    const int q2 = min(127, static_cast<int>(rintf((scaled - rounded) * 256.0f)));
    coarse |= (static_cast<unsigned>(q1) & 255u) << (8 * i);
    fine |= (static_cast<unsigned>(q2) & 255u) << (8 * i);
    total += 256 * q1 + q2;
  }
  words[lane] = coarse;
  words[32 + lane] = fine;
  for (int offset = 8; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, offset);
  }
  if (lane % 16 == 0) totals[lane / 16] = total;
  // NaN and infinity reach every product through the step.
  if (lane == 0)
    *step = largest >= 1e-30f || largest != largest ? largest / (127.0f * 256.0f) : 0.0f;
}

/// Quantizes norm(row): the blocks of 128 columns are shared by the warps of a block of threads.
/// target(block) says where a block goes. raw: room for the padded row when
/// there is a norm; scratch: a float a warp.
template <typename Target>
__device__ void quantize_row(const float* row, const InputNorm& norm, int cols, int n_blocks,
                             float* raw, float* scratch, const Target& target) {
  constexpr int kLoads = 4;  // in flight
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const auto put = [&](int block, const float4& values) {
    const QuantizedInput place = target(block);
    quantize_block(values, place.words, place.steps, place.totals);
  };
  const bool normed = norm.gain != nullptr, centre = norm.subtract_mean;
  float sum = 0.0f;
  for (int first = warp; first < n_blocks; first += kLoads * n_warps) {
    float4 values[kLoads], gains[kLoads] = {};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int column = (first + i * n_warps) * kInputBlock + 4 * lane;
      values[i] = load_columns(row, column, cols);
      if (normed && !centre) gains[i] = load_columns(norm.gain, column, cols);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int block = first + i * n_warps;
      if (block >= n_blocks) break;
      float4 v = values[i];
      if (!normed) {
        put(block, v);
        continue;
      }
      if (centre) {
        sum += v.x + v.y + v.z + v.w;
      } else {
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        const float4 g = gains[i];
        v = {g.x * v.x, g.y * v.y, g.z * v.z, g.w * v.w};
      }
      reinterpret_cast<float4*>(raw)[block * 32 + lane] = v;
    }
  }
  if (!normed) return;
  const auto width = static_cast<float>(cols);
  float mean = 0.0f;
  if (centre) {
    mean = sum_of_block(sum, scratch) / width;
    sum = 0.0f;
    for (int i = static_cast<int>(threadIdx.x); i < cols; i += static_cast<int>(blockDim.x)) {
      sum += (raw[i] - mean) * (raw[i] - mean);
    }
  }
  const float factor = 1.0f / sqrtf(sum_of_block(sum, scratch) / width + norm.epsilon);
  for (int block = warp; block < n_blocks; block += n_warps) {
    const int column = block * kInputBlock + 4 * lane;
    float4 v = reinterpret_cast<const float4*>(raw)[block * 32 + lane];
    if (centre) {
      const float4 g = load_columns(norm.gain, column, cols);
      v = {g.x * (v.x - mean), g.y * (v.y - mean), g.z * (v.z - mean), g.w * (v.w - mean)};
    }
    v = {v.x * factor, v.y * factor, v.z * factor, v.w * factor};
    if (norm.shift != nullptr) {
      const float4 offset = load_columns(norm.shift, column, cols);
      v = {v.x + offset.x, v.y + offset.y, v.z + offset.z, v.w + offset.w};
    }
    put(block, v);
  }
}

}  // namespace d2q::cuda
