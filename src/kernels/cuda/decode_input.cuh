// Quantizing the activations of a decoding step; cuda_decode_kernels.h says into what.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

/// The sum over a block of threads, in every thread; scratch: a float a warp, of its own. What the
/// threads wrote to shared memory before is there for all of them.
__device__ inline float sum_of_block(float value, float* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  value = reduce_threads<32>(value, Sum());
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / 32 ? scratch[lane] : 0.0f;
  return reduce_threads<32>(value, Sum());
}

/// The transpose of a warp's 32 by 32 bits: bit b of lane l goes to bit l of lane b. Five rounds
/// exchange ever smaller squares; what a lane keeps and how it turns the rest depends on the lane.
class BitTranspose {
 public:
  __device__ explicit BitTranspose(int lane) {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const bool upper = (lane & 16 >> i) != 0;
      kept_[i] = upper ? ~lower_squares(i) : lower_squares(i);
      turn_[i] = upper ? 32 - (16 >> i) : 16 >> i;
    }
  }
  __device__ unsigned operator()(unsigned word) const {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
      const unsigned other = __shfl_xor_sync(0xffffffffu, word, 16 >> i);
      word = (word & kept_[i]) | (__funnelshift_l(other, other, turn_[i]) & ~kept_[i]);
    }
    return word;
  }

 private:
  __device__ static constexpr unsigned lower_squares(int round) {
    return round == 0   ? 0x0000ffffu
           : round == 1 ? 0x00ff00ffu
           : round == 2 ? 0x0f0f0f0fu
           : round == 3 ? 0x33333333u
                        : 0x55555555u;
  }
  unsigned kept_[5];
  int turn_[5];
};

/// A warp's 128 values as integers of 16 bits: lane l has columns l, 32 + l, 64 + l and 96 + l.
struct RoundedBlock {
  unsigned bits[4];  // in the lower half of each
  float step;        // NaN when a value was not finite: so it reaches every product
  int halves[2];     // sums of columns 0 to 63 and 64 to 127

  __device__ explicit RoundedBlock(const float (&values)[4]) {
    // 1.5 * 2^23: added to a float below 2^22 it leaves the rounded integer in the low bits.
    constexpr float kRound = 12582912.0f;
    constexpr unsigned kRoundBits = 0x4b400000u;
    // As integers, absolute values order like floats do, and NaN above them all.
    unsigned largest = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) largest = max(largest, __float_as_uint(values[e]) & 0x7fffffffu);
    largest = __reduce_max_sync(0xffffffffu, largest);
    // The smallest power of two that leaves every value below 127 * 256.
    const int exponent = max(static_cast<int>((largest + 0x20000u) >> 23) - 127, -90);
    const float inverse = __uint_as_float(static_cast<unsigned>(127 + 14 - exponent) << 23);
    step = largest < 0x7f800000u ? __uint_as_float(static_cast<unsigned>(127 - 14 + exponent) << 23)
                                 : NAN;
#pragma unroll
    for (int e = 0; e < 4; ++e) bits[e] = __float_as_uint(fmaf(values[e], inverse, kRound));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      halves[i] = __reduce_add_sync(
          0xffffffffu, static_cast<int>(bits[2 * i] + bits[2 * i + 1] - 2 * kRoundBits));
    }
  }

  __device__ void store_scales(float2* scales) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= 4) return;
    const int half = lane == 0 ? halves[0] : lane == 1 ? halves[1] : 0;
    scales[lane] = {step * static_cast<float>(1 << 4 * lane),
                    -0.5f * step * static_cast<float>(half)};
  }
};

/// A warp quantizes a block for products of single bits.
__device__ inline void store_bits(const float (&values)[4], const BitTranspose& transpose,
                                  QuantizedBlock& target) {
  const RoundedBlock rounded(values);
  // Lane l has bit l % 16 of 32 columns now.
  const int lane = static_cast<int>(threadIdx.x) % 32, bit = lane % 16;
  unsigned* place = target.words + lane / 16 * 16 + (bit / 4 * 2 + bit % 2) * 2 + bit / 2 % 2;
  place[0] = transpose(__byte_perm(rounded.bits[0], rounded.bits[1], 0x5410));
  place[32] = transpose(__byte_perm(rounded.bits[2], rounded.bits[3], 0x5410));
  rounded.store_scales(target.scales);
}

/// A warp quantizes a block for products of bytes.
__device__ inline void store_bytes(const float (&values)[4], QuantizedBlock& target) {
  const RoundedBlock rounded(values);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  auto* bytes = reinterpret_cast<unsigned char*>(target.words);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    // q = 256 high + low, both of them signed bytes.
    const unsigned q = rounded.bits[e];
    unsigned char* place = bytes + (8 * e + lane % 8) * 4 + lane / 8;
    place[0] = static_cast<unsigned char>((q + 128u) >> 8);
    place[128] = static_cast<unsigned char>(q);
  }
  rounded.store_scales(target.scales);
}

/// Quantizes norm(row) for one token: the blocks of 128 columns, kHeld a warp at most, are shared
/// by the warps of a block of threads and stay in registers. put(block, values) stores a block,
/// values[e] of a lane being column 32e + lane. before(): called when what never changes has been
/// read. scratch: two floats a warp.
template <int kHeld, typename Before, typename Put>
__device__ void quantize_row(const float* row, const InputNorm& norm, int cols, float* scratch,
                             const Before& before, const Put& put) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const int n_blocks = (cols + kInputBlock - 1) / kInputBlock;
  float values[kHeld][4];
  /// visit(i, block) for the warp's blocks.
  const auto each_block = [&](const auto& visit) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (warp + i * n_warps < n_blocks) visit(i, warp + i * n_warps);
    }
  };
  const auto load = [&](const float* from, int block, float(&to)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      // Past L1: the row may have been written while this kernel was already running.
      const int column = block * kInputBlock + 32 * e + lane;
      to[e] = column < cols ? __ldcg(from + column) : 0.0f;
    }
  };
  if (norm.gain == nullptr) {
    before();
    each_block([&](int i, int block) { load(row, block, values[i]); });
    each_block([&](int i, int block) { put(block, values[i]); });
    return;
  }

  float gains[kHeld][4], shifts[kHeld][4] = {};
  each_block([&](int i, int block) { load(norm.gain, block, gains[i]); });
  if (norm.shift != nullptr) {
    each_block([&](int i, int block) { load(norm.shift, block, shifts[i]); });
  }
  before();
  each_block([&](int i, int block) { load(row, block, values[i]); });
  const auto width = static_cast<float>(cols);
  float sum = 0.0f;
  if (norm.subtract_mean) {
    each_block(
        [&](int i, int) { sum += values[i][0] + values[i][1] + values[i][2] + values[i][3]; });
    const float mean = sum_of_block(sum, scratch) / width;
    each_block([&](int i, int block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (block * kInputBlock + 32 * e + lane < cols) values[i][e] -= mean;
      }
    });
    sum = 0.0f;
  }
  each_block([&](int i, int) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      sum += values[i][e] * values[i][e];
      gains[i][e] *= values[i][e];
    }
  });
  const float factor = rsqrtf(sum_of_block(sum, scratch + n_warps) / width + norm.epsilon);
  each_block([&](int i, int block) {
#pragma unroll
    for (int e = 0; e < 4; ++e) values[i][e] = fmaf(gains[i][e], factor, shifts[i][e]);
    put(block, values[i]);
  });
}

}  // namespace d2q::cuda
