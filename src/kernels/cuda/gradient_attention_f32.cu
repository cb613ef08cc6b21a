// Backward of attention with f32 products: tiles in shared memory. A block of 16 x 16 threads works
// on square tiles of kTile query rows and kTile keys; of the tile's scores, thread (x, y) has the
// block's own rows (or keys) y + 16 i and the others x + 16 j, of its results columns x + 16 c.
#include <cmath>

#include "kernels/cuda/gradient_attention_tile.cuh"

namespace d2q::cuda {
namespace {

constexpr int kSide = 16;

/// kTile rows of kDim values, padded so that float4 loads of consecutive rows hit different banks.
template <int kDim, int kTile>
struct Tiles {
  static constexpr int kPer = kTile / kSide;
  static constexpr int kColumns = kDim / kSide;
  static constexpr int kStride = kDim + 4;
  static constexpr int kWeightStride = kTile + 4;
  static constexpr size_t kBytes = sizeof(float) * (4 * kTile * kStride + kTile * kWeightStride);
};

/// kTile stacked rows of q, or of a tensor like it.
template <int kDim, int kTile>
__device__ void load_queries(const AttentionProblem& p, const AttentionTile& tile,
                             const Values& source, float* rows) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDim; i += kThreads) {
    const int row = i / kDim, column = i % kDim;
    const StackedRow from = stacked_row(p, tile, row);
    rows[row * Tiles<kDim, kTile>::kStride + column] =
        column < p.head_dim
            ? load_value(source, (from.query_row * p.n_heads + from.head) * p.head_dim + column)
            : 0.0f;
  }
}

/// Keys (or values) [begin, begin + kTile) of the tile's sequence; zeros past the last one.
template <int kDim, int kTile>
__device__ void load_keys(const AttentionProblem& p, const AttentionTile& tile,
                          const Values& source, int begin, float* rows) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDim; i += kThreads) {
    const int row = i / kDim, column = i % kDim;
    const int64_t key = begin + row;
    rows[row * Tiles<kDim, kTile>::kStride + column] =
        key < p.sequence_length && column < p.head_dim
            ? load_value(source,
                         ((tile.sequence * p.sequence_length + key) * p.n_kv_heads + tile.kv_head) *
                                 p.head_dim +
                             column)
            : 0.0f;
  }
}

/// products[i][j]: the thread's rows of `own` times its rows of `others`.
template <int kDim, int kTile, int kPer = Tiles<kDim, kTile>::kPer>
__device__ void multiply(const float* own, const float* others, int x, int y,
                         float (&products)[kPer][kPer]) {
  constexpr int kStride = Tiles<kDim, kTile>::kStride;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
#pragma unroll
    for (int j = 0; j < kPer; ++j) products[i][j] = 0.0f;
  }
  for (int d = 0; d < kDim; d += 4) {
    float4 a[kPer], b[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      a[i] = *reinterpret_cast<const float4*>(own + (y + kSide * i) * kStride + d);
      b[i] = *reinterpret_cast<const float4*>(others + (x + kSide * i) * kStride + d);
    }
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        products[i][j] += a[i].x * b[j].x + a[i].y * b[j].y + a[i].z * b[j].z + a[i].w * b[j].w;
      }
    }
  }
}

/// sums += weights times `others`, through `shared`. Every thread of the block calls it.
template <int kDim, int kTile, int kPer = Tiles<kDim, kTile>::kPer,
          int kColumns = Tiles<kDim, kTile>::kColumns>
__device__ void add_weighted(const float (&weights)[kPer][kPer], const float* others, int x, int y,
                             float* shared, float (&sums)[kPer][kColumns]) {
  constexpr int kStride = Tiles<kDim, kTile>::kStride;
  constexpr int kWeightStride = Tiles<kDim, kTile>::kWeightStride;
  __syncthreads();  // earlier weights have been used
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      shared[(y + kSide * i) * kWeightStride + x + kSide * j] = weights[i][j];
    }
  }
  __syncthreads();
  for (int n = 0; n < kTile; ++n) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const float weight = shared[(y + kSide * i) * kWeightStride + n];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[i][c] += weight * others[n * kStride + x + kSide * c];
    }
  }
}

template <int kDim, int kTile>
__global__ __launch_bounds__(kThreads) void query_gradients(AttentionGradient g) {
  using T = Tiles<kDim, kTile>;
  extern __shared__ __align__(16) float shared[];
  float* queries = shared;
  float* d_outputs = queries + kTile * T::kStride;
  float* keys = d_outputs + kTile * T::kStride;
  float* values = keys + kTile * T::kStride;
  float* weights = values + kTile * T::kStride;

  const AttentionProblem& p = g.forward;
  const AttentionTile tile = attention_tile(p, kTile, kTile);
  const int x = static_cast<int>(threadIdx.x) % kSide, y = static_cast<int>(threadIdx.x) / kSide;
  StackedRow rows[T::kPer];
  float top[T::kPer], log_sum[T::kPer], delta[T::kPer], d_queries[T::kPer][T::kColumns] = {};
  for (int i = 0; i < T::kPer; ++i) {
    const int64_t row = tile.first_row + y + kSide * i;
    rows[i] = stacked_row(p, tile, y + kSide * i);
    top[i] = -INFINITY;
    log_sum[i] = 0.0f;  // the sum itself at first
    delta[i] = g.deltas[row_value_index(p, tile, min(row, tile.n_rows - 1))];
  }
  load_queries<kDim, kTile>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, queries);
  load_queries<kDim, kTile>(p, tile, g.d_y, d_outputs);

  for (int begin = tile.first_key; begin < tile.last_key; begin += kTile) {
    __syncthreads();  // the last tile has been used
    load_keys<kDim, kTile>(p, tile, p.k, begin, keys);
    __syncthreads();
    float scores[T::kPer][T::kPer];
    multiply<kDim, kTile>(queries, keys, x, y, scores);
#pragma unroll
    for (int i = 0; i < T::kPer; ++i) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < T::kPer; ++j) {
        scores[i][j] =
            sees(p, rows[i].position, begin + x + kSide * j) ? p.scale * scores[i][j] : -INFINITY;
        largest = fmaxf(largest, scores[i][j]);
      }
      // With nothing seen yet all exponents are -inf, not -inf + inf.
      const float shift = largest == -INFINITY ? 0.0f : largest;
      log_sum[i] *= expf(top[i] - shift);
      top[i] = largest;
#pragma unroll
      for (int j = 0; j < T::kPer; ++j) log_sum[i] += expf(scores[i][j] - shift);
    }
  }
#pragma unroll
  for (int i = 0; i < T::kPer; ++i) {
    // The 16 threads of a row, one half of a warp, have sums around maxima of their own.
    float largest = top[i];
    for (int offset = kSide / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    float total = log_sum[i] * expf(top[i] - largest);
    for (int offset = kSide / 2; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, offset);
    }
    log_sum[i] = largest + logf(total);
    const int64_t row = tile.first_row + y + kSide * i;
    if (x == 0 && row < tile.n_rows) g.log_sums[row_value_index(p, tile, row)] = log_sum[i];
  }

  for (int begin = tile.first_key; begin < tile.last_key; begin += kTile) {
    __syncthreads();
    load_keys<kDim, kTile>(p, tile, p.k, begin, keys);
    load_keys<kDim, kTile>(p, tile, p.v, begin, values);
    __syncthreads();
    float scores[T::kPer][T::kPer], slopes[T::kPer][T::kPer];
    multiply<kDim, kTile>(queries, keys, x, y, scores);
    multiply<kDim, kTile>(d_outputs, values, x, y, slopes);
#pragma unroll
    for (int i = 0; i < T::kPer; ++i) {
#pragma unroll
      for (int j = 0; j < T::kPer; ++j) {
        const float probability = sees(p, rows[i].position, begin + x + kSide * j)
                                      ? expf(p.scale * scores[i][j] - log_sum[i])
                                      : 0.0f;
        slopes[i][j] = p.scale * probability * (slopes[i][j] - delta[i]);
      }
    }
    add_weighted<kDim, kTile>(slopes, keys, x, y, weights, d_queries);
  }
#pragma unroll
  for (int i = 0; i < T::kPer; ++i) {
    if (tile.first_row + y + kSide * i >= tile.n_rows) continue;
    const int64_t target = (rows[i].query_row * p.n_heads + rows[i].head) * p.head_dim;
#pragma unroll
    for (int c = 0; c < T::kColumns; ++c) {
      if (x + kSide * c < p.head_dim) g.d_q[target + x + kSide * c] = d_queries[i][c];
    }
  }
}

template <int kDim, int kTile>
__global__ __launch_bounds__(kThreads) void key_gradients(AttentionGradient g) {
  using T = Tiles<kDim, kTile>;
  extern __shared__ __align__(16) float shared[];
  float* keys = shared;
  float* values = keys + kTile * T::kStride;
  float* queries = values + kTile * T::kStride;
  float* d_outputs = queries + kTile * T::kStride;
  float* weights = d_outputs + kTile * T::kStride;
  __shared__ RowValues<kTile> row_values;

  const AttentionProblem& p = g.forward;
  const KeyTile owned = key_tile(p, kTile, kTile);
  AttentionTile tile = owned.tile;
  const int x = static_cast<int>(threadIdx.x) % kSide, y = static_cast<int>(threadIdx.x) / kSide;
  load_keys<kDim, kTile>(p, tile, p.k, tile.first_key, keys);
  load_keys<kDim, kTile>(p, tile, p.v, tile.first_key, values);

  float d_keys[T::kPer][T::kColumns] = {}, d_values[T::kPer][T::kColumns] = {};
  for (; tile.first_row < owned.end_row; tile.first_row += kTile) {
    __syncthreads();  // the last tile has been used
    load_queries<kDim, kTile>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, queries);
    load_queries<kDim, kTile>(p, tile, g.d_y, d_outputs);
    load_row_values(g, tile, row_values);
    __syncthreads();
    float scores[T::kPer][T::kPer], slopes[T::kPer][T::kPer];
    multiply<kDim, kTile>(keys, queries, x, y, scores);
    multiply<kDim, kTile>(values, d_outputs, x, y, slopes);
#pragma unroll
    for (int i = 0; i < T::kPer; ++i) {
#pragma unroll
      for (int j = 0; j < T::kPer; ++j) {
        const int row = x + kSide * j;
        const float probability = sees(p, row_values.positions[row], tile.first_key + y + kSide * i)
                                      ? expf(p.scale * scores[i][j] - row_values.log_sums[row])
                                      : 0.0f;
        scores[i][j] = probability;
        slopes[i][j] = p.scale * probability * (slopes[i][j] - row_values.deltas[row]);
      }
    }
    add_weighted<kDim, kTile>(scores, d_outputs, x, y, weights, d_values);
    add_weighted<kDim, kTile>(slopes, queries, x, y, weights, d_keys);
  }
#pragma unroll
  for (int i = 0; i < T::kPer; ++i) {
    const int64_t key = tile.first_key + y + kSide * i;
    if (key >= p.sequence_length) continue;
    const int64_t target =
        ((tile.sequence * p.sequence_length + key) * p.n_kv_heads + tile.kv_head) * p.head_dim;
#pragma unroll
    for (int c = 0; c < T::kColumns; ++c) {
      const int column = x + kSide * c;
      if (column >= p.head_dim) continue;
      g.d_k[target + column] = d_keys[i][c];
      g.d_v[target + column] = d_values[i][c];
    }
  }
}

using Kernel = void (*)(AttentionGradient);

cudaError_t start(Kernel kernel, int64_t n_blocks, size_t n_bytes, const AttentionGradient& g,
                  cudaStream_t stream) {
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(n_bytes));
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(n_blocks), kThreads, n_bytes, stream>>>(g);
  return cudaGetLastError();
}

template <int kDim, int kTile>
cudaError_t launch(const AttentionGradient& g, cudaStream_t stream) {
  constexpr size_t kBytes = Tiles<kDim, kTile>::kBytes;
  const cudaError_t status =
      start(query_gradients<kDim, kTile>, attention_blocks(g.forward, kTile), kBytes, g, stream);
  if (status != cudaSuccess) return status;
  return start(key_gradients<kDim, kTile>, key_blocks(g.forward, kTile), kBytes, g, stream);
}

/// One warp a query and head.
__global__ void attention_deltas(AttentionGradient g, int64_t n) {
  const AttentionProblem& p = g.forward;
  const int64_t i = element_index() / 32;
  if (i >= n) return;
  float sum = 0.0f;
  for (int64_t d = threadIdx.x % 32; d < p.head_dim; d += 32) {
    sum += load_value(g.d_y, i * p.head_dim + d) * load_value(p.y, i * p.head_dim + d);
  }
  sum = reduce_threads<32>(sum, Sum());
  if (threadIdx.x % 32 != 0) return;
  const int64_t group = p.n_heads / p.n_kv_heads;
  const int64_t row = i / p.n_heads, head = i % p.n_heads;
  const int64_t sequence = row / p.sequence_length, query = row % p.sequence_length;
  const AttentionTile tile{.sequence = sequence,
                           .kv_head = head / group,
                           .first_row = 0,
                           .n_rows = p.sequence_length * group,
                           .group = group,
                           .first_key = 0,
                           .last_key = 0};
  g.deltas[row_value_index(p, tile, query * group + head % group)] = sum;
}

}  // namespace

cudaError_t launch_attention_deltas(const AttentionGradient& g, cudaStream_t stream) {
  const int64_t n = g.forward.n_sequences * g.forward.sequence_length * g.forward.n_heads;
  if (n == 0) return cudaSuccess;
  attention_deltas<<<blocks_for(n * 32), kThreads, 0, stream>>>(g, n);
  return cudaGetLastError();
}

cudaError_t launch_attention_gradient_f32(const AttentionGradient& g, cudaStream_t stream) {
  const cudaError_t status = launch_attention_deltas(g, stream);
  if (status != cudaSuccess) return status;
  // Smaller tiles for large heads: 99 KB of shared memory is all that some GPUs have.
  if (g.forward.head_dim <= 64) return launch<64, 64>(g, stream);
  if (g.forward.head_dim <= 128) return launch<128, 32>(g, stream);
  return launch<256, 16>(g, stream);
}

}  // namespace d2q::cuda
