// Attention with bf16 products on tensor cores: a block of four warps works on kTiles times 64
// stacked query rows, kTiles times 16 a warp, and walks over tiles of kKeys keys, of which the next
// one is copied meanwhile. Scores, running maximum, sum and output stay in registers; probabilities
// are rounded to bf16 for the second product, their sum is not.
#include <cmath>

#include "kernels/cuda/attention_bf16.cuh"

namespace d2q::cuda {
namespace {

constexpr int kWarps = kBlockThreads / 32;
/// Blocks below which more rows a block would leave multiprocessors idle.
constexpr int64_t kFewBlocks = 264;

template <int kDim, int kKeys, int kTiles>
constexpr int kRows = 16 * kWarps* kTiles;

/// Queries, and two tiles each of keys and values.
template <int kDim, int kKeys, int kTiles>
constexpr size_t kSharedBytes = sizeof(__nv_bfloat16) *
                                (kRows<kDim, kKeys, kTiles> + 4 * kKeys) * kStride<kDim>;

/// load_keys() for bf16 rows on multiples of 16 bytes, which arrive later.
template <int kDim, int kKeys>
__device__ void start_keys(const AttentionProblem& p, const AttentionTile& tile,
                           const Values& source, int begin, __nv_bfloat16* rows) {
  const int64_t n_keys = p.past_length + p.sequence_length;
  const int64_t row_stride = p.n_kv_heads * p.head_dim;
  const __nv_bfloat16* first = static_cast<const __nv_bfloat16*>(source.data) +
                               (tile.sequence * n_keys + begin) * row_stride +
                               tile.kv_head * p.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kDim / 8; i += kBlockThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const bool is_there = begin + row < n_keys && column < p.head_dim;
    const auto address =
        static_cast<unsigned>(__cvta_generic_to_shared(rows + row * kStride<kDim> + column));
    // What is not there is not read, and becomes zeros.
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
                 "l"(is_there ? first + row * row_stride + column : first), "r"(is_there ? 16 : 0)
                 : "memory");
  }
}

/// score() of a warp's kTiles · 16 rows; the others are read once for all of them.
template <int kDim, int kKeys, int kTiles>
__device__ void score_tiles(const __nv_bfloat16* rows, const __nv_bfloat16* others, int lane,
                            float (&scores)[kTiles][kKeys / 8][4]) {
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    unsigned a[kTiles][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      load_matrices(rows + (16 * t + lane % 16) * kStride<kDim> + d + lane / 16 * 8, a[t]);
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      unsigned b[4];
      const int key = n + lane / 16 * 8 + lane % 8;
      load_matrices(others + key * kStride<kDim> + d + lane / 8 % 2 * 8, b);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        multiply(a[t], b[0], b[1], scores[t][n / 8]);
        multiply(a[t], b[2], b[3], scores[t][n / 8 + 1]);
      }
    }
  }
}

/// add_weighted() of a warp's kTiles · 16 rows, in the same way.
template <int kDim, int kKeys, int kTiles>
__device__ void add_weighted_tiles(const float (&weights)[kTiles][kKeys / 8][4],
                                   const __nv_bfloat16* rows, int lane,
                                   float (&sums)[kTiles][kDim / 8][4]) {
#pragma unroll
  for (int k = 0; k < kKeys; k += 16) {
    unsigned a[kTiles][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const float(&left)[4] = weights[t][k / 8];
      const float(&right)[4] = weights[t][k / 8 + 1];
      a[t][0] = packed(left[0], left[1]);
      a[t][1] = packed(left[2], left[3]);
      a[t][2] = packed(right[0], right[1]);
      a[t][3] = packed(right[2], right[3]);
    }
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      unsigned b[4];
      const int key = k + lane / 8 % 2 * 8 + lane % 8;
      load_transposed_matrices(rows + key * kStride<kDim> + d + lane / 16 * 8, b);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        multiply(a[t], b[0], b[1], sums[t][d / 8]);
        multiply(a[t], b[2], b[3], sums[t][d / 8 + 1]);
      }
    }
  }
}

/// Scores of one row and thread become weights, relative to the row's largest score so far.
/// `row`, of the block, is in the registers of `half`.
template <int kDim, int kKeys>
__device__ void weigh(const AttentionProblem& p, const AttentionTile& tile, int row, int begin,
                      bool all_seen, int half, int lane, float scale, float (&scores)[kKeys / 8][4],
                      float& top, float& sum, float (&output)[kDim / 8][4]) {
  const int position = all_seen ? 0 : stacked_row(p, tile, row).position;
  float largest = top;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float& value = scores[n][2 * half + c];
      const int key = begin + 8 * n + lane % 4 * 2 + c;
      value = all_seen || sees(p, position, key) ? scale * value : -INFINITY;
      largest = fmaxf(largest, value);
    }
  }
  // The four threads of a row.
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
  // With nothing seen yet all exponents are -inf, not -inf + inf.
  const float shift = largest == -INFINITY ? 0.0f : largest;
  const float factor = exp2f(top - shift);
  top = largest;
  sum *= factor;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float& value = scores[n][2 * half + c];
      value = exp2f(value - shift);
      sum += value;
    }
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    output[n][2 * half] *= factor;
    output[n][2 * half + 1] *= factor;
  }
}

/// `aligned`: rows of keys lie on multiples of 16 bytes.
template <int kDim, int kKeys, int kTiles>
__global__ __launch_bounds__(kBlockThreads) void attend_bf16(AttentionProblem p, bool aligned) {
  extern __shared__ __align__(16) unsigned char shared[];
  constexpr int kBlockRows = kRows<kDim, kKeys, kTiles>;
  constexpr int kTileElements = kKeys * kStride<kDim>;
  auto* queries = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* keys = queries + kBlockRows * kStride<kDim>;
  __nv_bfloat16* values = keys + 2 * kTileElements;

  const AttentionTile tile = attention_tile(p, kBlockRows, kKeys);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = warp * 16 * kTiles;
  const auto row_of = [&](int t, int half) { return first_row + 16 * t + lane / 4 + 8 * half; };
  float top[kTiles][2], sum[kTiles][2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    top[t][0] = top[t][1] = -INFINITY;
    sum[t][0] = sum[t][1] = 0.0f;
  }
  const int first_position = stacked_row(p, tile, 0).position;
  const int last_position = tile.last_key - 1;
  float output[kTiles][kDim / 8][4] = {};
  const float scale = p.scale * kLog2E;
  const bool later = aligned && p.k.type == Scalar::kBF16;
  const auto load = [&](int begin, int stage) {
    __nv_bfloat16* to_keys = keys + stage * kTileElements;
    __nv_bfloat16* to_values = values + stage * kTileElements;
    if (later) {
      start_keys<kDim, kKeys>(p, tile, p.k, begin, to_keys);
      start_keys<kDim, kKeys>(p, tile, p.v, begin, to_values);
    } else {
      load_keys<kDim, kKeys>(p, tile, p.k, begin, aligned, to_keys);
      load_keys<kDim, kKeys>(p, tile, p.v, begin, aligned, to_values);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

  load(tile.first_key, 0);
  load_queries<kDim, kBlockRows>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, aligned,
                                 queries);
  int stage = 0;
  for (int begin = tile.first_key; begin < tile.last_key; begin += kKeys) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();  // the tile is there, and the other one has been used
    if (begin + kKeys < tile.last_key) load(begin + kKeys, 1 - stage);

    float scores[kTiles][kKeys / 8][4] = {};
    score_tiles<kDim, kKeys, kTiles>(queries + first_row * kStride<kDim>,
                                     keys + stage * kTileElements, lane, scores);
    const bool all_seen =
        begin + kKeys - 1 <= first_position && (p.window == 0 || last_position - begin < p.window);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        weigh<kDim, kKeys>(p, tile, row_of(t, half), begin, all_seen, half, lane, scale, scores[t],
                           top[t][half], sum[t][half], output[t]);
    }
    add_weighted_tiles<kDim, kKeys, kTiles>(scores, values + stage * kTileElements, lane, output);
    stage = 1 - stage;
  }

#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& total = sum[t][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const int own_row = row_of(t, half);
      if (tile.first_row + own_row >= tile.n_rows) continue;
      const StackedRow row = stacked_row(p, tile, own_row);
      const int64_t target = (row.query_row * p.n_heads + row.head) * p.head_dim;
      const float factor = 1.0f / total;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int column = 8 * n + lane % 4 * 2 + c;
          if (column < p.head_dim)
            store_value(p.y, target + column, output[t][n][2 * half + c] * factor);
        }
      }
    }
  }
}

template <int kDim, int kKeys, int kTiles>
cudaError_t launch(const AttentionProblem& problem, cudaStream_t stream) {
  constexpr size_t kBytes = kSharedBytes<kDim, kKeys, kTiles>;
  const auto kernel = attend_bf16<kDim, kKeys, kTiles>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes));
  if (status != cudaSuccess) return status;
  const bool aligned = problem.head_dim % 8 == 0 && on_16_bytes(problem.q) &&
                       on_16_bytes(problem.k.data) && on_16_bytes(problem.v.data);
  const int64_t n_blocks = attention_blocks(problem, kRows<kDim, kKeys, kTiles>);
  kernel<<<static_cast<unsigned>(n_blocks), kBlockThreads, kBytes, stream>>>(problem, aligned);
  return cudaGetLastError();
}

/// As many rows a block as registers hold, where that leaves enough blocks.
template <int kDim>
cudaError_t launch_tiled(const AttentionProblem& problem, cudaStream_t stream) {
  if (attention_blocks(problem, kRows<kDim, 64, 2>) < kFewBlocks)
    return launch<kDim, 64, 1>(problem, stream);
  return launch<kDim, 64, 2>(problem, stream);
}

}  // namespace

cudaError_t launch_attention_bf16(const AttentionProblem& problem, cudaStream_t stream) {
  // Fewer keys and rows for large heads: the output alone takes half of the registers there.
  if (problem.head_dim <= 64) return launch_tiled<64>(problem, stream);
  if (problem.head_dim <= 96) return launch_tiled<96>(problem, stream);
  if (problem.head_dim <= 128) return launch_tiled<128>(problem, stream);
  return launch<256, 32, 1>(problem, stream);
}

}  // namespace d2q::cuda
