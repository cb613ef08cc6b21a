// Quantizing the activations of a decoding step; cuda_decode_kernels.h says into what.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

/// The sum over kWarps warps, in every thread; scratch: a float a warp, of its own. What the
/// threads wrote to shared memory before is there for all of them.
template <int kWarps>
__device__ float sum_of_warps(const ThreadPlace& me, float value, float* scratch) {
  static_assert(kWarps == 16 || kWarps == 32);
  value = reduce_threads<32>(value, Sum());
  if (me.lane == 0) scratch[me.warp] = value;
  sync_warps<kWarps>();
  value = scratch[me.lane % kWarps];
#pragma unroll
  for (int offset = kWarps / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

/// A lane's values of a block: columns 4l .. 4l + 3.
struct BlockValues {
  float at[4];
};

/// A warp's 128 values as integers of 16 bits.
struct RoundedBlock {
  unsigned bits[4];  // in the lower half of each
  float step;        // NaN when a value was not finite: so it reaches every product

  __device__ explicit RoundedBlock(const BlockValues& values) {
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
  }
  /// Of the lane's integers.
  __device__ int sum() const {
    return static_cast<int>(bits[0] + bits[1] + bits[2] + bits[3] - 4 * kRoundBits);
  }

 private:
  // 1.5 * 2^23: added to a float below 2^22 it leaves the rounded integer in the low bits.
  static constexpr float kRound = 12582912.0f;
  static constexpr unsigned kRoundBits = 0x4b400000u;
};

/// A warp quantizes a block for products of bytes.
__device__ inline void store_bytes(int lane, const BlockValues& values, QuantizedBlock& target) {
  const RoundedBlock rounded(values);
  auto* bytes = reinterpret_cast<unsigned char*>(target.words);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    // q = 256 high + low, both of them signed bytes.
    const unsigned q = rounded.bits[e];
    unsigned char* place = bytes + (lane / 8 * 8 + lane % 2 * 4 + e) * 4 + lane % 8 / 2;
    place[0] = static_cast<unsigned char>((q + 128u) >> 8);
    place[128] = static_cast<unsigned char>(q);
  }
  const int sum = rounded.sum();
  const int first = __reduce_add_sync(0xffffffffu, lane < 16 ? sum : 0);
  const int both = __reduce_add_sync(0xffffffffu, sum);
  if (lane >= 4) return;
  const int half = lane == 0 ? first : lane == 1 ? both - first : 0;
  target.scales[lane] = {rounded.step * static_cast<float>(1 << 4 * lane),
                         -0.5f * rounded.step * static_cast<float>(half)};
}

/// A warp quantizes a block for products of single bits, up to spread_bits(): until then its words
/// are the integers of columns 2i and 2i + 1, and y of its scales is missing.
__device__ inline void store_integers(int lane, const BlockValues& values, QuantizedBlock* target,
                                      bool there) {
  const RoundedBlock rounded(values);
  if (!there) return;
  reinterpret_cast<uint2*>(target->words)[lane] = {
      __byte_perm(rounded.bits[0], rounded.bits[1], 0x5410),
      __byte_perm(rounded.bits[2], rounded.bits[3], 0x5410)};
  if (lane < 4) target->scales[lane].x = rounded.step * static_cast<float>(1 << 4 * lane);
}

/// One round of a transpose of 8 by 8 bits in each byte: exchanges squares of kWidth bits.
template <int kWidth, unsigned kLower>
__device__ void exchange_bits(unsigned& a, unsigned& b) {
  const unsigned upper = a >> kWidth;
  a = (a & kLower) | (b << kWidth & ~kLower);
  b = (upper & kLower) | (b & ~kLower);
}

/// The rest of quantization for products of single bits, of every kWarps-th block, those of which
/// the warp has stored the integers: eight lanes a block, each with 32 columns and a byte of their
/// integers, turn them into bits.
template <int kWarps>
__device__ void spread_bits(const ThreadPlace& me, QuantizedBlock* blocks, int n_blocks) {
  const int t = me.lane % 8 / 2, byte = me.lane % 2;
  __syncwarp();
#pragma unroll 1
  for (int first = me.warp; first < n_blocks; first += 4 * kWarps) {
    const int mine = first + me.lane / 8 * kWarps;
    const bool there = mine < n_blocks;
    QuantizedBlock& block = blocks[there ? mine : first];
    auto* words = reinterpret_cast<uint4*>(block.words) + 4 * t;
    unsigned pairs[16];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint4 four = words[i];
      pairs[4 * i] = four.x, pairs[4 * i + 1] = four.y;
      pairs[4 * i + 2] = four.z, pairs[4 * i + 3] = four.w;
    }
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum = __dp2a_lo(static_cast<int>(byte == 0 ? pairs[2 * i] : pairs[2 * i + 1]), 0x0101, sum);
    }
    // Byte k of columns[i] is that of column i + 8k.
    const unsigned select = byte == 0 ? 0x6240u : 0x7351u;
    unsigned columns[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned low = __byte_perm(pairs[i], pairs[i + 4], select);
      const unsigned high = __byte_perm(pairs[i + 8], pairs[i + 12], select);
      columns[2 * i] = __byte_perm(low, high, 0x5410);
      columns[2 * i + 1] = __byte_perm(low, high, 0x7632);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) exchange_bits<4, 0x0f0f0f0fu>(columns[i], columns[i + 4]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i % 4 < 2) exchange_bits<2, 0x33333333u>(columns[i], columns[i + 2]);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 2) exchange_bits<1, 0x55555555u>(columns[i], columns[i + 1]);
    // Of a half of the block: two lanes have the bytes of 32 columns, and two groups of 32.
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);  // all lanes have read their words now
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (!there) continue;
    words[2 * byte] = {columns[0], columns[2], columns[1], columns[3]};
    words[2 * byte + 1] = {columns[4], columns[6], columns[5], columns[7]};
    // Lanes with t = 0 and 2 have the sums, the others the zeros behind them.
    const bool is_sum = t % 2 == 0;
    if (byte == 0) {
      block.scales[is_sum ? t / 2 : t / 2 + 2].y =
          is_sum ? -0.5f * block.scales[0].x * static_cast<float>(sum) : 0.0f;
    }
  }
}

/// What a lane has of a pair of blocks of columns, kWarps blocks apart, in quantize_row(): value k
/// is offset(k) columns after the first one.
template <int kWarps>
struct PairColumns {
  static constexpr int kApart = kWarps * kInputBlock;
  __device__ static constexpr int offset(int k) { return k / 4 * kApart + k % 4; }
};

/// Whether a row has no shift, mean or ragged end to think of, and can be read in fours.
__host__ __device__ inline bool is_regular(const InputNorm& norm, int cols) {
  return cols % kInputBlock == 0 && norm.shift == nullptr && !norm.subtract_mean &&
         reinterpret_cast<uintptr_t>(norm.gain) % 16 == 0;
}

/// Values of a row from the lane's columns of a pair on, 0 beyond the row.
template <int kWarps, bool kRegular>
__device__ void load_pair(const float* row, int first, int cols, float (&values)[8]) {
  using Columns = PairColumns<kWarps>;
#pragma unroll
  for (int half = 0; half < 8; half += 4) {
    const int column = first + Columns::offset(half);
    if constexpr (kRegular) {
      const float4 four = column < cols ? __ldg(reinterpret_cast<const float4*>(row + column))
                                        : float4{0.0f, 0.0f, 0.0f, 0.0f};
      values[half] = four.x, values[half + 1] = four.y;
      values[half + 2] = four.z, values[half + 3] = four.w;
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) values[half + k] = column + k < cols ? row[column + k] : 0.0f;
    }
  }
}

/// Quantizes norm(row) for one token; kWarps warps share the blocks of 128 columns and have two at
/// a time. source.ask(first) asks for eight columns a lane, PairColumns after `first`;
/// source.settle(first, values) waits for them. put(block, values, there) stores a block, if it
/// is there. scratch: two floats a warp. kRegular: is_regular(), in far fewer instructions.
template <int kWarps, bool kRegular, typename Source, typename Put>
__device__ void quantize_row(const ThreadPlace& me, Source& source, const InputNorm& norm, int cols,
                             float* scratch, const Put& put) {
  using Columns = PairColumns<kWarps>;
  const int n_blocks = (cols + kInputBlock - 1) / kInputBlock;
  const int own_first = me.warp * kInputBlock + 4 * me.lane;
  const auto for_pairs = [&](const auto& visit) {
    if (me.warp < n_blocks) source.ask(own_first);
#pragma unroll 1
    for (int block = me.warp; block < n_blocks; block += 2 * kWarps) {
      const int first = block * kInputBlock + 4 * me.lane;
      float values[8];
      source.settle(first, values);
      if (block + 2 * kWarps < n_blocks) source.ask(first + 2 * Columns::kApart);
      visit(block, first, values);
    }
  };
  // Both, so that the steps of one fill the other's waits.
  const auto put_pair = [&](int block, const float(&values)[8]) {
    put(block, BlockValues{{values[0], values[1], values[2], values[3]}}, true);
    put(block + kWarps, BlockValues{{values[4], values[5], values[6], values[7]}},
        block + kWarps < n_blocks);
  };
  if (norm.gain == nullptr) {
    for_pairs([&](int block, int, const float(&values)[8]) { put_pair(block, values); });
    return;
  }
  // Not a division: its slow path is a call, around which registers would be saved.
  const float per_column = __fdividef(1.0f, static_cast<float>(cols));
  const auto factor_of = [&](float squares) {
    return rsqrtf(sum_of_warps<kWarps>(me, squares, scratch + kWarps) * per_column + norm.epsilon);
  };
  float gains[8];
  if constexpr (kRegular) {
    if (n_blocks <= 2 * kWarps) {  // what is read once can stay
      float values[8] = {};
      float squares = 0.0f;
      if (me.warp < n_blocks) {
        source.ask(own_first);
        load_pair<kWarps, kRegular>(norm.gain, own_first, cols, gains);
        source.settle(own_first, values);
#pragma unroll
        for (int k = 0; k < 8; ++k) squares = fmaf(values[k], values[k], squares);
      }
      const float factor = factor_of(squares);
      if (me.warp >= n_blocks) return;
#pragma unroll
      for (int k = 0; k < 8; ++k) values[k] *= gains[k] * factor;
      put_pair(me.warp, values);
      return;
    }
  }
  float mean = 0.0f;
  if constexpr (!kRegular) {
    if (norm.subtract_mean) {
      float sum = 0.0f;
      for_pairs([&](int, int, const float(&values)[8]) {
        for (const float value : values) sum += value;
      });
      mean = sum_of_warps<kWarps>(me, sum, scratch) * per_column;
    }
  }
  float squares = 0.0f;
  for_pairs([&](int, int first, const float(&values)[8]) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float value = values[k] - mean;
      if (first + Columns::offset(k) < cols) squares = fmaf(value, value, squares);
    }
  });
  const float factor = factor_of(squares);
  for_pairs([&](int block, int first, const float(&values)[8]) {
    load_pair<kWarps, kRegular>(norm.gain, first, cols, gains);
    float shifts[8] = {};
    if constexpr (!kRegular) {
      if (norm.shift != nullptr) load_pair<kWarps, kRegular>(norm.shift, first, cols, shifts);
    }
    float normed[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      normed[k] = fmaf(gains[k] * (values[k] - mean), factor, shifts[k]);
    }
    put_pair(block, normed);
  });
}

}  // namespace d2q::cuda
