// Tiles of bf16 rows in shared memory, and the products of a warp's 16 rows with them: what the
// forward and the backward of attention share.
#pragma once

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/mma_fragments.cuh"

namespace d2q::cuda {

constexpr int kBlockThreads = 128;  // four warps
constexpr float kLog2E = 1.44269504f;

/// Rows of kDim bf16 in shared memory. 16 more bytes a row: the eight rows of an 8 x 8 matrix then
/// lie in different banks.
template <int kDim>
constexpr int kStride = kDim + 8;

/// Eight values from element `i` on as bf16; those from `count` on are zero. `aligned`: all eight
/// are there and lie on a multiple of 16 bytes.
__device__ inline uint4 load_eight(const Values& x, int64_t i, int64_t count, bool aligned) {
  if (aligned && x.type == Scalar::kBF16) {
    return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(x.data) + i);
  }
  float values[8];
  if (aligned && x.type == Scalar::kF16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(static_cast<const __half*>(x.data) + i);
    const auto* pairs = reinterpret_cast<const __half2*>(&bits);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float2 pair = __half22float2(pairs[k]);
      values[2 * k] = pair.x;
      values[2 * k + 1] = pair.y;
    }
  } else if (aligned && x.type == Scalar::kF32) {
    const auto* source = reinterpret_cast<const float4*>(static_cast<const float*>(x.data) + i);
    const float4 low = source[0], high = source[1];
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
  } else {
#pragma unroll
    for (int k = 0; k < 8; ++k) values[k] = k < count ? load_value(x, i + k) : 0.0f;
  }
  return {packed(values[0], values[1]), packed(values[2], values[3]), packed(values[4], values[5]),
          packed(values[6], values[7])};
}

/// kRows stacked rows of q, or of a tensor like it, from the tile's first row on.
template <int kDim, int kRows>
__device__ void load_queries(const AttentionProblem& p, const AttentionTile& tile,
                             const Values& source, bool aligned, __nv_bfloat16* rows) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 8; i += kBlockThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const StackedRow from = stacked_row(p, tile, row);
    uint4 values = {0, 0, 0, 0};
    if (column < p.head_dim) {
      values = load_eight(source, (from.query_row * p.n_heads + from.head) * p.head_dim + column,
                          p.head_dim - column, aligned);
    }
    *reinterpret_cast<uint4*>(rows + row * kStride<kDim> + column) = values;
  }
}

/// Keys (or values) [begin, begin + kKeys) of the tile's sequence; zeros past the last one.
template <int kDim, int kKeys>
__device__ void load_keys(const AttentionProblem& p, const AttentionTile& tile,
                          const Values& source, int begin, bool aligned, __nv_bfloat16* rows) {
  const int64_t n_keys = p.past_length + p.sequence_length;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kDim / 8; i += kBlockThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const int64_t key = begin + row;
    uint4 values = {0, 0, 0, 0};
    if (key < n_keys && column < p.head_dim) {
      values = load_eight(
          source,
          ((tile.sequence * n_keys + key) * p.n_kv_heads + tile.kv_head) * p.head_dim + column,
          p.head_dim - column, aligned);
    }
    *reinterpret_cast<uint4*>(rows + row * kStride<kDim> + column) = values;
  }
}

/// Adds one warp's 16 rows times the transpose of kKeys others: scores[n] are columns 8n .. 8n + 7.
template <int kDim, int kKeys>
__device__ void score(const __nv_bfloat16* rows, const __nv_bfloat16* others, int lane,
                      float (&scores)[kKeys / 8][4]) {
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    unsigned a[4];
    load_matrices(rows + lane % 16 * kStride<kDim> + d + lane / 16 * 8, a);
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      unsigned b[4];
      const int key = n + lane / 16 * 8 + lane % 8;
      load_matrices(others + key * kStride<kDim> + d + lane / 8 % 2 * 8, b);
      multiply(a, b[0], b[1], scores[n / 8]);
      multiply(a, b[2], b[3], scores[n / 8 + 1]);
    }
  }
}

/// Adds weights [16, kKeys], rounded to bf16, times kKeys rows: sums[n] are columns 8n .. 8n + 7.
template <int kDim, int kKeys>
__device__ void add_weighted(const float (&weights)[kKeys / 8][4], const __nv_bfloat16* rows,
                             int lane, float (&sums)[kDim / 8][4]) {
#pragma unroll
  for (int k = 0; k < kKeys; k += 16) {
    const float(&left)[4] = weights[k / 8];
    const float(&right)[4] = weights[k / 8 + 1];
    const unsigned a[4] = {packed(left[0], left[1]), packed(left[2], left[3]),
                           packed(right[0], right[1]), packed(right[2], right[3])};
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      unsigned b[4];
      const int key = k + lane / 8 % 2 * 8 + lane % 8;
      load_transposed_matrices(rows + key * kStride<kDim> + d + lane / 16 * 8, b);
      multiply(a, b[0], b[1], sums[d / 8]);
      multiply(a, b[2], b[3], sums[d / 8 + 1]);
    }
  }
}

inline bool on_16_bytes(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace d2q::cuda
