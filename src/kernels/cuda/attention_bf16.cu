// Attention with bf16 products on tensor cores: a block of four warps works on 64 stacked query
// rows, 16 a warp, and walks over tiles of kKeys keys. Scores, running maximum, sum and output stay
// in registers; probabilities are rounded to bf16 for the second product, their sum is not.
#include <cmath>

#include "kernels/cuda/attention_bf16.cuh"

namespace d2q::cuda {
namespace {

constexpr int kRows = 64;

template <int kDim, int kKeys>
constexpr size_t kSharedBytes = sizeof(__nv_bfloat16) * (kRows + 2 * kKeys) * kStride<kDim>;

template <int kDim, int kKeys>
__global__ __launch_bounds__(kBlockThreads) void attend_bf16(AttentionProblem p, bool aligned) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* queries = reinterpret_cast<__nv_bfloat16*>(shared);
  __nv_bfloat16* keys = queries + kRows * kStride<kDim>;
  __nv_bfloat16* values = keys + kKeys * kStride<kDim>;

  const AttentionTile tile = attention_tile(p, kRows, kKeys);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = warp * 16;
  StackedRow rows[2];
  float top[2], sum[2];
  for (int half = 0; half < 2; ++half) {
    rows[half] = stacked_row(p, tile, first_row + lane / 4 + 8 * half);
    top[half] = -INFINITY;
    sum[half] = 0.0f;
  }
  float output[kDim / 8][4] = {};
  load_queries<kDim, kRows>(p, tile, {const_cast<float*>(p.q), Scalar::kF32}, aligned, queries);
  const float scale = p.scale * kLog2E;

  for (int begin = tile.first_key; begin < tile.last_key; begin += kKeys) {
    __syncthreads();  // the last tile has been used
    load_keys<kDim, kKeys>(p, tile, p.k, begin, aligned, keys);
    load_keys<kDim, kKeys>(p, tile, p.v, begin, aligned, values);
    __syncthreads();

    float scores[kKeys / 8][4] = {};
    score<kDim, kKeys>(queries + first_row * kStride<kDim>, keys, lane, scores);

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
      // The four threads of a row.
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      // With nothing seen yet all exponents are -inf, not -inf + inf.
      const float shift = largest == -INFINITY ? 0.0f : largest;
      const float factor = exp2f(top[half] - shift);
      top[half] = largest;
      sum[half] *= factor;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& value = scores[n][2 * half + c];
          value = exp2f(value - shift);
          sum[half] += value;
        }
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        output[n][2 * half] *= factor;
        output[n][2 * half + 1] *= factor;
      }
    }

    add_weighted<kDim, kKeys>(scores, values, lane, output);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
    if (tile.first_row + first_row + lane / 4 + 8 * half >= tile.n_rows) continue;
    const int64_t target = (rows[half].query_row * p.n_heads + rows[half].head) * p.head_dim;
    const float factor = 1.0f / sum[half];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int column = 8 * n + lane % 4 * 2 + c;
        if (column < p.head_dim) {
          store_value(p.y, target + column, output[n][2 * half + c] * factor);
        }
      }
    }
  }
}

template <int kDim, int kKeys>
cudaError_t launch(const AttentionProblem& problem, cudaStream_t stream) {
  constexpr size_t kBytes = kSharedBytes<kDim, kKeys>;
  const cudaError_t status =
      cudaFuncSetAttribute(attend_bf16<kDim, kKeys>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(kBytes));
  if (status != cudaSuccess) return status;
  const bool aligned = problem.head_dim % 8 == 0 && on_16_bytes(problem.q) &&
                       on_16_bytes(problem.k.data) && on_16_bytes(problem.v.data);
  attend_bf16<kDim, kKeys>
      <<<static_cast<unsigned>(attention_blocks(problem, kRows)), kBlockThreads, kBytes, stream>>>(
          problem, aligned);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_attention_bf16(const AttentionProblem& problem, cudaStream_t stream) {
  // Fewer keys for large heads: the output alone takes half of the registers there.
  if (problem.head_dim <= 64) return launch<64, 64>(problem, stream);
  if (problem.head_dim <= 96) return launch<96, 64>(problem, stream);
  if (problem.head_dim <= 128) return launch<128, 64>(problem, stream);
  return launch<256, 32>(problem, stream);
}

}  // namespace d2q::cuda
