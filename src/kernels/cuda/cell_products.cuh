// A warp's products of a cell of packed weights with quantized tokens, on the tensor cores.
//
// Weights are sums of bits times scales and activations integers of 16 bits (QuantizedBlock). One
// token meets them bit by bit: a product of single bits counts for 16 rows, 128 columns and 8 bits
// of the token, and cells (packed_format.cuh) are its left operands as they lie in memory, so that
// nothing is unpacked. Two products give a lane the counts of bits 4t .. 4t + 3 for rows g and
// g + 8, with g = lane / 4 and t = lane % 4; the sum over the lanes of a row, with 16^t in the
// input's scales, waits for the end of the row tile. Several tokens meet them in bytes: the
// weights' bits are spread once, and a product takes four tokens. Counts and their weighted sums
// are exact.
#pragma once

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/mma_fragments.cuh"
#include "kernels/cuda/packed_format.cuh"

namespace d2q::cuda {

/// What a lane holds of a cell: of rows g and g + 8.
template <typename F, int kGroups>
struct LaneCell {
  unsigned planes[F::kCodeBits][2];  // columns 32t .. 32t + 31
  float params[kGroups][F::kParams][2];

  __device__ LaneCell(const unsigned char* cell, int lane) {
#pragma unroll
    for (int k = 0; k + 1 < F::kCodeBits; k += 2) {
      const uint4 words = *reinterpret_cast<const uint4*>(cell + k / 2 * 512 + 16 * lane);
      planes[k][0] = words.x, planes[k][1] = words.y;
      planes[k + 1][0] = words.z, planes[k + 1][1] = words.w;
    }
    if constexpr (F::kCodeBits % 2 != 0) {
      constexpr int kLast = F::kCodeBits - 1;
      const uint2 words = *reinterpret_cast<const uint2*>(cell + kLast / 2 * 512 + 8 * lane);
      planes[kLast][0] = words.x, planes[kLast][1] = words.y;
    }
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const unsigned char* source =
          cell + F::kCellCodeBytes + group * F::kCellGroupBytes + lane / 4 * 4 * F::kParams;
      unsigned pairs[F::kParams];
      if constexpr (F::kParams == 2) {
        const uint2 both = *reinterpret_cast<const uint2*>(source);
        pairs[0] = both.x, pairs[1] = both.y;
      } else {
#pragma unroll
        for (int k = 0; k < F::kParams; ++k)
          pairs[k] = reinterpret_cast<const unsigned*>(source)[k];
      }
#pragma unroll
      for (int k = 0; k < F::kParams; ++k) {
        const float2 rows = __half22float2(*reinterpret_cast<const __half2*>(&pairs[k]));
        params[group][k][0] = rows.x, params[group][k][1] = rows.y;
      }
    }
  }

  /// sum += the scaled products of a group, whose integers are `totals`, one for each plane or one
  /// in all; half of the value for planes. offset: of a QuantizedBlock's scales.
  template <int kTotals>
  __device__ void add_scaled(int group, int row, const int (&totals)[kTotals], float step,
                             float offset, float& sum) const {
    if constexpr (F::kPlanes) {
      // ± is 2 bit - 1.
#pragma unroll
      for (int k = 0; k < kTotals; ++k) {
        const float value = fmaf(static_cast<float>(totals[k]), step, offset);
        sum = fmaf(params[group][k][row], value, sum);
      }
    } else {
      const float zero = 2.0f * params[group][1][row] * offset;
      sum = fmaf(params[group][0][row], fmaf(static_cast<float>(totals[0]), step, zero), sum);
    }
  }
};

template <typename F>
constexpr int kTotalsOf = F::kPlanes ? F::kCodeBits : 1;

__device__ inline int multiply_add(int a, int b, int c) {
  int result;
  asm("mad.lo.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

/// sums[row g or g + 8] += a cell's products with one token, bit by bit.
template <typename F, int kGroups>
__device__ void add_bits(const unsigned char* cell, const QuantizedBlock& x, int lane,
                         float (&sums)[1][2]) {
  const int g = lane / 4, t = lane % 4;
  const LaneCell<F, kGroups> mine(cell, lane);
  // The token's highest bit, a lane's last one for t = 3, counts negatively.
  const int top_weight = t == 3 ? -8 : 8;
  const uint2 bits = reinterpret_cast<const uint2*>(x.words)[8 * t + g];
  const float2 scale = x.scales[t];
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const bool of_group = kGroups == 1 || t / 2 == group;
    const unsigned low = of_group ? bits.x : 0u, high = of_group ? bits.y : 0u;
    const float offset = kGroups == 1 || t == group ? scale.y : 0.0f;
    int totals[2][kTotalsOf<F>] = {};
#pragma unroll
    for (int k = F::kCodeBits - 1; k >= 0; --k) {
      int first[4], second[4];
      multiply_bits(mine.planes[k], low, first);
      multiply_bits(mine.planes[k], high, second);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // In this order each step is one instruction; left alone, the compiler makes four of them.
        int count = multiply_add(first[2 * i + 1], 2, first[2 * i]);
        count = multiply_add(second[2 * i], 4, count);
        count = multiply_add(second[2 * i + 1], top_weight, count);
        int& total = totals[i][F::kPlanes ? k : 0];
        total = F::kPlanes ? count : 2 * total + count;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) mine.add_scaled(group, i, totals[i], scale.x, offset, sums[0][i]);
  }
}

/// sums[tile of four tokens][row g or g + 8] += a cell's products with token t of the tile, in
/// bytes: columns 32t + i + {0, 8, 16, 24} are one register of the operands.
template <typename F, int kGroups, int kTokenTiles>
__device__ void add_bytes(const unsigned char* cell, const QuantizedBlock* x, int n_tokens,
                          int lane, float (&sums)[kTokenTiles][2]) {
  constexpr int kTotals = kTotalsOf<F>;
  const int g = lane / 4, t = lane % 4;
  const LaneCell<F, kGroups> mine(cell, lane);
  // Four columns of row g or g + 8: bits of plane `total`, or whole codes.
  const auto bytes = [&](int total, int row, int i) {
    constexpr unsigned kLowest = 0x01010101u;
    if constexpr (F::kPlanes) {
      return mine.planes[total][row] >> i & kLowest;
    } else {
      unsigned codes = 0;
#pragma unroll
      for (int k = 0; k < F::kCodeBits; ++k) codes |= (mine.planes[k][row] >> i & kLowest) << k;
      return codes;
    }
  };
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    const bool of_group = kGroups == 1 || t / 2 == group;
    int products[kTokenTiles][kTotals][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 inputs[kTokenTiles];
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        const int token = 4 * tile + g / 2;
        inputs[tile] = {0, 0, 0, 0};
        if (token < n_tokens && of_group) {
          inputs[tile] = reinterpret_cast<const uint4*>(x[token].words)[g % 2 * 8 + 2 * t + half];
        }
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int i = 4 * half + 2 * step;
#pragma unroll
        for (int k = 0; k < kTotals; ++k) {
          const unsigned a[4] = {bytes(k, 0, i), bytes(k, 1, i), bytes(k, 0, i + 1),
                                 bytes(k, 1, i + 1)};
#pragma unroll
          for (int tile = 0; tile < kTokenTiles; ++tile) {
            const uint4& b = inputs[tile];
            multiply_bytes(a, step == 0 ? b.x : b.z, step == 0 ? b.y : b.w, products[tile][k]);
          }
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int token = min(4 * tile + t, n_tokens - 1);
      const float2 first = x[token].scales[0], second = x[token].scales[1];
      const float offset = kGroups == 1 ? first.y + second.y : group == 0 ? first.y : second.y;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        int totals[kTotals];
#pragma unroll
        for (int k = 0; k < kTotals; ++k) {
          totals[k] = 256 * products[tile][k][2 * i] + products[tile][k][2 * i + 1];
        }
        mine.add_scaled(group, i, totals, first.x, offset, sums[tile][i]);
      }
    }
  }
}

}  // namespace d2q::cuda
