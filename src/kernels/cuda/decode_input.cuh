// Quantizing the activations of a decoding step; cuda_decode_kernels.h says into what.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

/// The sum over a block of kWarps warps, in every thread; scratch: a float a warp, of its own. What
/// the threads wrote to shared memory before is there for all of them.
template <int kWarps>
__device__ float sum_of_block(float value, float* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  value = reduce_threads<32>(value, Sum());
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < kWarps ? scratch[lane] : 0.0f;
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

/// A lane's values of a block.
struct BlockValues {
  float at[4];
};

/// A warp's 128 values as integers of 16 bits: lane l has columns l, 32 + l, 64 + l and 96 + l.
struct RoundedBlock {
  unsigned bits[4];  // in the lower half of each
  float step;        // NaN when a value was not finite: so it reaches every product
  int halves[2];     // sums of columns 0 to 63 and 64 to 127

  __device__ explicit RoundedBlock(const BlockValues& values) {
    // 1.5 * 2^23: added to a float below 2^22 it leaves the rounded integer in the low bits.
    constexpr float kRound = 12582912.0f;
    constexpr unsigned kRoundBits = 0x4b400000u;
    // As integers, absolute values order like floats do, and NaN above them all.
    unsigned largest = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) largest = max(largest, __float_as_uint(values.at[e]) & 0x7fffffffu);
    largest = __reduce_max_sync(0xffffffffu, largest);
    // The smallest power of two that leaves every value below 127 * 256.
    const int exponent = max(static_cast<int>((largest + 0x20000u) >> 23) - 127, -90);
    const float inverse = __uint_as_float(static_cast<unsigned>(127 + 14 - exponent) << 23);
    step = largest < 0x7f800000u ? __uint_as_float(static_cast<unsigned>(127 - 14 + exponent) << 23)
                                 : NAN;
#pragma unroll
    for (int e = 0; e < 4; ++e) bits[e] = __float_as_uint(fmaf(values.at[e], inverse, kRound));
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
__device__ inline void store_bits(const BlockValues& values, const BitTranspose& transpose,
                                  QuantizedBlock* target, bool there) {
  const RoundedBlock rounded(values);
  // Lane l has bit l % 16 of 32 columns now.
  const int lane = static_cast<int>(threadIdx.x) % 32, bit = lane % 16;
  unsigned* place = target->words + lane / 16 * 16 + (bit / 4 * 2 + bit % 2) * 2 + bit / 2 % 2;
  const unsigned first = transpose(__byte_perm(rounded.bits[0], rounded.bits[1], 0x5410));
  const unsigned second = transpose(__byte_perm(rounded.bits[2], rounded.bits[3], 0x5410));
  if (!there) return;
  place[0] = first, place[32] = second;
  rounded.store_scales(target->scales);
}

/// A warp quantizes a block for products of bytes.
__device__ inline void store_bytes(const BlockValues& values, QuantizedBlock& target) {
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

/// What a lane has of a pair of blocks of columns, kWarps blocks apart, in quantize_row(): value k
/// is pair_offset(k) columns after the first one.
template <int kWarps>
struct PairOffset {
  __device__ constexpr int operator()(int k) const {
    return k / 4 * kWarps * kInputBlock + k % 4 * 32;
  }
};

/// Quantizes norm(row) for one token; the kWarps warps of a block of threads share the blocks of
/// 128 columns and have two at a time. source.ask(first) asks for eight columns a lane, `first` and
/// PairOffset after it; source.settle(first, values) waits for them. put(block, values, there)
/// stores a block, if it is there, value e of a lane being its column 32e + lane. scratch: two
/// floats a warp. One loop in place of many: a decoding step's code has to stay in the instruction
/// cache.
template <int kWarps, typename Source, typename Put>
__device__ void quantize_row(Source& source, const InputNorm& norm, int cols, float* scratch,
                             const Put& put) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_blocks = (cols + kInputBlock - 1) / kInputBlock;
  constexpr PairOffset<kWarps> kOffset;
  float gains[8], shifts[8] = {};
  const auto load_norm = [&](int first) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const bool is_column = first + kOffset(k) < cols;
      gains[k] = is_column ? norm.gain[first + kOffset(k)] : 0.0f;
      if (norm.shift != nullptr && is_column) shifts[k] = norm.shift[first + kOffset(k)];
    }
  };
  if (norm.gain != nullptr) load_norm(warp * kInputBlock + lane);
  const auto width = static_cast<float>(cols);
  float mean = 0.0f, factor = 1.0f;
  float values[8];
  // The mean, the variance, and what becomes of it.
  const int first_pass = norm.gain == nullptr ? 2 : norm.subtract_mean ? 0 : 1;
#pragma unroll 1
  for (int pass = first_pass; pass <= 2; ++pass) {
    const bool have_all = pass > first_pass && n_blocks <= 2 * kWarps;
    float sum = 0.0f;
    if (!have_all && warp < n_blocks) source.ask(warp * kInputBlock + lane);
#pragma unroll 1
    for (int block = warp; block < n_blocks; block += 2 * kWarps) {
      const int first = block * kInputBlock + lane;
      if (!have_all) {
        source.settle(first, values);
        if (block + 2 * kWarps < n_blocks) source.ask(first + 2 * kWarps * kInputBlock);
      }
      if (pass < 2) {
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const float value = pass == 0 ? values[k] : (values[k] - mean) * (values[k] - mean);
          if (first + kOffset(k) < cols) sum += value;
        }
        continue;
      }
      if (norm.gain != nullptr) {
        if (block != warp) load_norm(first);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          values[k] = fmaf(gains[k] * (values[k] - mean), factor, shifts[k]);
        }
      }
      // Both, so that the steps of one fill the other's waits; what is beyond the row is not
      // stored.
      put(block, BlockValues{{values[0], values[1], values[2], values[3]}}, true);
      put(block + kWarps, BlockValues{{values[4], values[5], values[6], values[7]}},
          block + kWarps < n_blocks);
    }
    if (pass == 0) mean = sum_of_block<kWarps>(sum, scratch) / width;
    if (pass == 1) {
      factor = rsqrtf(sum_of_block<kWarps>(sum, scratch + kWarps) / width + norm.epsilon);
    }
  }
}

}  // namespace d2q::cuda
