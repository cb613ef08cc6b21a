// Backward of attention with bf16 products on tensor cores. A block of four warps owns 64 query
// rows, then 64 keys, 16 a warp; scores, their gradients and the results stay in registers.
// Probabilities and gradients of scores are rounded to bf16 for the products that follow.
#include <cmath>

#include "kernels/cuda/attention_bf16.cuh"
#include "kernels/cuda/gradient_attention_tile.cuh"

namespace d2q::cuda {
namespace {

constexpr int kOwned = 64;  // rows or keys of a block

template <int kDim, int kOthers>
constexpr size_t kSharedBytes = sizeof(__nv_bfloat16) * 2 * (kOwned + kOthers) * kStride<kDim>;

/// Writes d_q and log_sums, the latter in units of log 2.
template <int kDim, int kKeys>
__global__ __launch_bounds__(kBlockThreads) void query_gradients(AttentionGradient g,
                                                                 bool aligned) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* queries = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* d_outputs = queries + kOwned * kStride<kDim>;
  __nv_bfloat16* keys = d_outputs + kOwned * kStride<kDim>;
  __nv_bfloat16* values = keys + kKeys * kStride<kDim>;

  const AttentionProblem& p = g.forward;
  const AttentionTile tile = attention_tile(p, kOwned, kKeys);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = warp * 16;
  StackedRow rows[2];
  float top[2], sum[2], log_sum[2], delta[2];
  for (int half = 0; half < 2; ++half) {
    const int row = first_row + lane / 4 + 8 * half;
    rows[half] = stacked_row(p, tile, row);
    top[half] = -INFINITY;
    sum[half] = 0.0f;
    delta[half] = g.deltas[row_value_index(p, tile, min(tile.first_row + row, tile.n_rows - 1))];
  }
  load_queries<kDim, kOwned>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, aligned, queries);
  load_queries<kDim, kOwned>(p, tile, g.d_y, aligned, d_outputs);
  const __nv_bfloat16* warp_queries = queries + first_row * kStride<kDim>;
  const float scale = p.scale * kLog2E;

  for (int begin = tile.first_key; begin < tile.last_key; begin += kKeys) {
    __syncthreads();  // the last tile has been used
    load_keys<kDim, kKeys>(p, tile, p.k, begin, aligned, keys);
    __syncthreads();
    float scores[kKeys / 8][4] = {};
    score<kDim, kKeys>(warp_queries, keys, lane, scores);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = top[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& value = scores[n][2 * half + c];
          const int key = begin + 8 * n + lane % 4 * 2 + c;
          value = sees(p, rows[half].position, key) ? scale * value : -INFINITY;
          largest = fmaxf(largest, value);
        }
      }
      // With nothing seen yet all exponents are -inf, not -inf + inf.
      const float shift = largest == -INFINITY ? 0.0f : largest;
      sum[half] *= exp2f(top[half] - shift);
      top[half] = largest;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        sum[half] += exp2f(scores[n][2 * half] - shift) + exp2f(scores[n][2 * half + 1] - shift);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // The four threads of a row have sums around maxima of their own; the row's own key is seen by
    // one of them.
    float largest = fmaxf(top[half], __shfl_xor_sync(0xffffffffu, top[half], 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    float total = sum[half] * exp2f(top[half] - largest);
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    log_sum[half] = largest + log2f(total);
    const int64_t stacked = tile.first_row + first_row + lane / 4 + 8 * half;
    if (lane % 4 == 0 && stacked < tile.n_rows) {
      g.log_sums[row_value_index(p, tile, stacked)] = log_sum[half];
    }
  }

  float d_queries[kDim / 8][4] = {};
  for (int begin = tile.first_key; begin < tile.last_key; begin += kKeys) {
    __syncthreads();
    load_keys<kDim, kKeys>(p, tile, p.k, begin, aligned, keys);
    load_keys<kDim, kKeys>(p, tile, p.v, begin, aligned, values);
    __syncthreads();
    float scores[kKeys / 8][4] = {}, slopes[kKeys / 8][4] = {};
    score<kDim, kKeys>(warp_queries, keys, lane, scores);
    score<kDim, kKeys>(d_outputs + first_row * kStride<kDim>, values, lane, slopes);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i / 2, key = begin + 8 * n + lane % 4 * 2 + i % 2;
        const float probability =
            sees(p, rows[half].position, key) ? exp2f(scale * scores[n][i] - log_sum[half]) : 0.0f;
        slopes[n][i] = p.scale * probability * (slopes[n][i] - delta[half]);
      }
    }
    add_weighted<kDim, kKeys>(slopes, keys, lane, d_queries);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (tile.first_row + first_row + lane / 4 + 8 * half >= tile.n_rows) continue;
    const int64_t target = (rows[half].query_row * p.n_heads + rows[half].head) * p.head_dim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + lane % 4 * 2 + c;
        if (column < p.head_dim) g.d_q[target + column] = d_queries[n][2 * half + c];
      }
    }
  }
}

/// One warp's 16 keys of d_k or d_v.
template <int kDim>
__device__ void store_keys(const AttentionProblem& p, const AttentionTile& tile, int first_key,
                           int lane, const float (&sums)[kDim / 8][4], float* result) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t key = first_key + lane / 4 + 8 * half;
    if (key >= p.sequence_length) continue;
    const int64_t target =
        ((tile.sequence * p.sequence_length + key) * p.n_kv_heads + tile.kv_head) * p.head_dim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + lane % 4 * 2 + c;
        if (column < p.head_dim) result[target + column] = sums[n][2 * half + c];
      }
    }
  }
}

/// Writes d_k where kWantsKeys, d_v where kWantsValues, from the log_sums of the first pass.
template <int kDim, int kRows, bool kWantsKeys, bool kWantsValues>
__global__ __launch_bounds__(kBlockThreads) void key_gradients(AttentionGradient g, bool aligned) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* keys = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* values = keys + kOwned * kStride<kDim>;
  __nv_bfloat16* queries = values + kOwned * kStride<kDim>;
  __nv_bfloat16* d_outputs = queries + kRows * kStride<kDim>;
  __shared__ RowValues<kRows> row_values;

  const AttentionProblem& p = g.forward;
  const KeyTile owned = key_tile(p, kOwned, kRows);
  AttentionTile tile = owned.tile;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_key = tile.first_key + warp * 16;
  const __nv_bfloat16* warp_keys = keys + warp * 16 * kStride<kDim>;
  const __nv_bfloat16* warp_values = values + warp * 16 * kStride<kDim>;
  load_keys<kDim, kOwned>(p, tile, p.k, tile.first_key, aligned, keys);
  if constexpr (kWantsKeys) {
    load_keys<kDim, kOwned>(p, tile, p.v, tile.first_key, aligned, values);
  }
  const float scale = p.scale * kLog2E;

  // Not both in registers where the heads are large.
  float d_keys[kWantsKeys ? kDim / 8 : 1][4] = {};
  float d_values[kWantsValues ? kDim / 8 : 1][4] = {};
  for (; tile.first_row < owned.end_row; tile.first_row += kRows) {
    __syncthreads();  // the last tile has been used
    load_queries<kDim, kRows>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, aligned, queries);
    load_queries<kDim, kRows>(p, tile, g.d_y, aligned, d_outputs);
    load_row_values(g, tile, row_values);
    __syncthreads();

    float scores[kRows / 8][4] = {}, slopes[kRows / 8][4] = {};
    score<kDim, kRows>(warp_keys, queries, lane, scores);
    if constexpr (kWantsKeys) score<kDim, kRows>(warp_values, d_outputs, lane, slopes);
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + lane / 4 + i / 2 * 8, row = 8 * n + lane % 4 * 2 + i % 2;
        const float probability = sees(p, row_values.positions[row], key)
                                      ? exp2f(scale * scores[n][i] - row_values.log_sums[row])
                                      : 0.0f;
        scores[n][i] = probability;
        slopes[n][i] = p.scale * probability * (slopes[n][i] - row_values.deltas[row]);
      }
    }
    if constexpr (kWantsValues) add_weighted<kDim, kRows>(scores, d_outputs, lane, d_values);
    if constexpr (kWantsKeys) add_weighted<kDim, kRows>(slopes, queries, lane, d_keys);
  }
  if constexpr (kWantsKeys) store_keys<kDim>(p, tile, first_key, lane, d_keys, g.d_k);
  if constexpr (kWantsValues) store_keys<kDim>(p, tile, first_key, lane, d_values, g.d_v);
}

using Kernel = void (*)(AttentionGradient, bool);

cudaError_t start(Kernel kernel, int64_t n_blocks, size_t n_bytes, const AttentionGradient& g,
                  bool aligned, cudaStream_t stream) {
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes));
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(n_blocks), kBlockThreads, n_bytes, stream>>>(g, aligned);
  return cudaGetLastError();
}

/// kKeys: keys at a time in the first pass; kRows: query rows at a time in the second.
template <int kDim, int kKeys, int kRows>
cudaError_t launch(const AttentionGradient& g, cudaStream_t stream) {
  const AttentionProblem& p = g.forward;
  const bool aligned = p.head_dim % 8 == 0 && on_16_bytes(p.q) && on_16_bytes(p.k.data) &&
                       on_16_bytes(p.v.data) && on_16_bytes(g.d_y.data);
  cudaError_t status = start(query_gradients<kDim, kKeys>, attention_blocks(p, kOwned),
                             kSharedBytes<kDim, kKeys>, g, aligned, stream);
  if (status != cudaSuccess) return status;
  const int64_t n_blocks = key_blocks(p, kOwned);
  constexpr size_t kBytes = kSharedBytes<kDim, kRows>;
  if constexpr (kDim <= 128) {
    return start(key_gradients<kDim, kRows, true, true>, n_blocks, kBytes, g, aligned, stream);
  } else {
    status = start(key_gradients<kDim, kRows, true, false>, n_blocks, kBytes, g, aligned, stream);
    if (status != cudaSuccess) return status;
    return start(key_gradients<kDim, kRows, false, true>, n_blocks, kBytes, g, aligned, stream);
  }
}

}  // namespace

cudaError_t launch_attention_gradient_bf16(const AttentionGradient& g, cudaStream_t stream) {
  const cudaError_t status = launch_attention_deltas(g, stream);
  if (status != cudaSuccess) return status;
  // Fewer at a time for large heads: results take half of the registers there, and 99 KB of shared
  // memory is all that some GPUs have.
  const int64_t head_dim = g.forward.head_dim;
  if (head_dim <= 64) return launch<64, 64, 64>(g, stream);
  if (head_dim <= 96) return launch<96, 64, 32>(g, stream);
  if (head_dim <= 128) return launch<128, 64, 32>(g, stream);
  return launch<256, 16, 16>(g, stream);
}

}  // namespace d2q::cuda
