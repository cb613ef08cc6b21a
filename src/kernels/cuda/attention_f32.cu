// Attention with f32 products: tiles in shared memory, online softmax. A block of 16 x 16 threads
// works on a square tile of kTile queries by kTile keys; thread (x, y) has rows y + 16 i, keys
// x + 16 j and output columns x + 16 c.
#include <cmath>

#include "kernels/cuda/attention_tile.cuh"

namespace d2q::cuda {
namespace {

constexpr int kSide = 16;

/// kTile rows of kDim values, padded so that float4 loads of consecutive rows hit different banks.
template <int kDim, int kTile>
struct Tiles {
  static constexpr int kStride = kDim + 4;
  static constexpr int kScoreStride = kTile + 4;
  static constexpr size_t kBytes = sizeof(float) * (2 * kTile * kStride + kTile * kScoreStride);
};

template <int kDim, int kTile>
__device__ void load_queries(const AttentionProblem& p, const AttentionTile& tile, float* rows) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDim; i += kThreads) {
    const int row = i / kDim, column = i % kDim;
    const StackedRow source = stacked_row(p, tile, row);
    rows[row * Tiles<kDim, kTile>::kStride + column] =
        column < p.head_dim
            ? p.q[(source.query_row * p.n_heads + source.head) * p.head_dim + column]
            : 0.0f;
  }
}

/// Keys (or values) [begin, begin + kTile) of the tile's sequence; zeros past the last one.
template <int kDim, int kTile>
__device__ void load_keys(const AttentionProblem& p, const AttentionTile& tile,
                          const Values& source, int begin, float* rows) {
  const int64_t n_keys = p.past_length + p.sequence_length;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kDim; i += kThreads) {
    const int row = i / kDim, column = i % kDim;
    const int64_t key = begin + row;
    rows[row * Tiles<kDim, kTile>::kStride + column] =
        key < n_keys && column < p.head_dim
            ? load_value(source, ((tile.sequence * n_keys + key) * p.n_kv_heads + tile.kv_head) *
                                         p.head_dim +
                                     column)
            : 0.0f;
  }
}

template <int kDim, int kTile>
__global__ __launch_bounds__(kThreads) void attend_f32(AttentionProblem p) {
  constexpr int kPer = kTile / kSide;
  constexpr int kColumns = kDim / kSide;
  constexpr int kStride = Tiles<kDim, kTile>::kStride;
  constexpr int kScoreStride = Tiles<kDim, kTile>::kScoreStride;
  extern __shared__ __align__(16) float shared[];
  float* queries = shared;
  float* keys = queries + kTile * kStride;  // and then the values
  float* probabilities = keys + kTile * kStride;

  const AttentionTile tile = attention_tile(p, kTile, kTile);
  const int x = static_cast<int>(threadIdx.x) % kSide, y = static_cast<int>(threadIdx.x) / kSide;
  StackedRow rows[kPer];
  float top[kPer], sum[kPer], output[kPer][kColumns];
  for (int i = 0; i < kPer; ++i) {
    rows[i] = stacked_row(p, tile, y + kSide * i);
    top[i] = -INFINITY;
    sum[i] = 0.0f;
    for (int c = 0; c < kColumns; ++c) output[i][c] = 0.0f;
  }
  load_queries<kDim, kTile>(p, tile, queries);

  for (int begin = tile.first_key; begin < tile.last_key; begin += kTile) {
    __syncthreads();  // the last tile's values have been used
    load_keys<kDim, kTile>(p, tile, p.k, begin, keys);
    __syncthreads();

    float scores[kPer][kPer] = {};
    for (int d = 0; d < kDim; d += 4) {
      float4 q[kPer], k[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        q[i] = *reinterpret_cast<const float4*>(queries + (y + kSide * i) * kStride + d);
        k[i] = *reinterpret_cast<const float4*>(keys + (x + kSide * i) * kStride + d);
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
#pragma unroll
        for (int j = 0; j < kPer; ++j) {
          scores[i][j] += q[i].x * k[j].x + q[i].y * k[j].y + q[i].z * k[j].z + q[i].w * k[j].w;
        }
      }
    }

#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        scores[i][j] =
            sees(p, rows[i].position, begin + x + kSide * j) ? p.scale * scores[i][j] : -INFINITY;
        largest = fmaxf(largest, scores[i][j]);
      }
      // The 16 threads of a row are one half of a warp.
      for (int offset = kSide / 2; offset > 0; offset /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
      }
      // With nothing seen yet all exponents are -inf, not -inf + inf.
      const float shift = largest == -INFINITY ? 0.0f : largest;
      const float factor = expf(top[i] - shift);
      top[i] = largest;
      sum[i] *= factor;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) output[i][c] *= factor;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const float probability = expf(scores[i][j] - shift);
        sum[i] += probability;
        probabilities[(y + kSide * i) * kScoreStride + x + kSide * j] = probability;
      }
    }

    __syncthreads();  // keys have been used, probabilities are written
    load_keys<kDim, kTile>(p, tile, p.v, begin, keys);
    __syncthreads();
    for (int key = 0; key < kTile; ++key) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const float probability = probabilities[(y + kSide * i) * kScoreStride + key];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          output[i][c] += probability * keys[key * kStride + x + kSide * c];
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    for (int offset = kSide / 2; offset > 0; offset /= 2) {
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], offset);
    }
    if (tile.first_row + y + kSide * i >= tile.n_rows) continue;
    const int64_t target = (rows[i].query_row * p.n_heads + rows[i].head) * p.head_dim;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = x + kSide * c;
      if (column < p.head_dim) store_value(p.y, target + column, output[i][c] / sum[i]);
    }
  }
}

template <int kDim, int kTile>
cudaError_t launch(const AttentionProblem& problem, cudaStream_t stream) {
  constexpr size_t kBytes = Tiles<kDim, kTile>::kBytes;
  const cudaError_t status =
      cudaFuncSetAttribute(attend_f32<kDim, kTile>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kBytes));
  if (status != cudaSuccess) return status;
  attend_f32<kDim, kTile>
      <<<static_cast<unsigned>(attention_blocks(problem, kTile)), kThreads, kBytes, stream>>>(
          problem);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_attention_f32(const AttentionProblem& problem, cudaStream_t stream) {
  // Smaller tiles for large heads: 99 KB of shared memory is all that some GPUs have.
  if (problem.head_dim <= 64) return launch<64, 64>(problem, stream);
  if (problem.head_dim <= 128) return launch<128, 64>(problem, stream);
  return launch<256, 32>(problem, stream);
}

}  // namespace d2q::cuda
