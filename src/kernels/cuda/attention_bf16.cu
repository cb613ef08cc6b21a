// Attention with bf16 products on tensor cores: a block of four warps works on 64 stacked query
// rows, 16 a warp, and walks over tiles of kKeys keys. Scores, running maximum, sum and output stay
// in registers; probabilities are rounded to bf16 for the second product, their sum is not.
//
// Fragments of mma.m16n8k16, with g = lane / 4 and t = lane % 4: a thread holds of the result rows
// g and g + 8, columns 2t and 2t + 1; of the left operand the same rows, columns 2t, 2t + 1 and
// those
// + 8; of the right operand column g, rows 2t, 2t + 1 and those + 8. So two neighbouring 8-column
// results are the left operand of the next product.
#include <cmath>

#include "kernels/cuda/attention_tile.cuh"

namespace d2q::cuda {
namespace {

constexpr int kRows = 64;
constexpr int kBlockThreads = 128;
constexpr float kLog2E = 1.44269504f;

/// Rows of kDim bf16 in shared memory. 16 more bytes a row: the eight rows of an 8 x 8 matrix then
/// lie in different banks.
template <int kDim>
constexpr int kStride = kDim + 8;

template <int kDim, int kKeys>
constexpr size_t kSharedBytes = sizeof(__nv_bfloat16) * (kRows + 2 * kKeys) * kStride<kDim>;

/// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(const __nv_bfloat16* row, unsigned (&result)[4]) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address)
               : "memory");
}

__device__ inline void load_transposed_matrices(const __nv_bfloat16* row, unsigned (&result)[4]) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(address)
               : "memory");
}

/// c += a b.
__device__ inline void multiply(const unsigned (&a)[4], unsigned b0, unsigned b1, float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned packed(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&pair);
}

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

template <int kDim>
__device__ void load_queries(const AttentionProblem& p, const AttentionTile& tile, bool aligned,
                             __nv_bfloat16* rows) {
  const Values q{const_cast<float*>(p.q), Scalar::kF32};
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kDim / 8; i += kBlockThreads) {
    const int row = i / (kDim / 8), column = i % (kDim / 8) * 8;
    const StackedRow source = stacked_row(p, tile, row);
    uint4 values = {0, 0, 0, 0};
    if (column < p.head_dim) {
      values = load_eight(q, (source.query_row * p.n_heads + source.head) * p.head_dim + column,
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

/// One warp's scores with a tile of keys, in units of log 2: scores[n] are keys 8n .. 8n + 7.
template <int kDim, int kKeys>
__device__ void score(const __nv_bfloat16* queries, const __nv_bfloat16* keys, int lane,
                      float (&scores)[kKeys / 8][4]) {
#pragma unroll
  for (int d = 0; d < kDim; d += 16) {
    unsigned a[4];
    load_matrices(queries + lane % 16 * kStride<kDim> + d + lane / 16 * 8, a);
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      unsigned b[4];
      const int key = n + lane / 16 * 8 + lane % 8;
      load_matrices(keys + key * kStride<kDim> + d + lane / 8 % 2 * 8, b);
      multiply(a, b[0], b[1], scores[n / 8]);
      multiply(a, b[2], b[3], scores[n / 8 + 1]);
    }
  }
}

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
  load_queries<kDim>(p, tile, aligned, queries);
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

#pragma unroll
    for (int k = 0; k < kKeys; k += 16) {
      const float(&left)[4] = scores[k / 8];
      const float(&right)[4] = scores[k / 8 + 1];
      const unsigned a[4] = {packed(left[0], left[1]), packed(left[2], left[3]),
                             packed(right[0], right[1]), packed(right[2], right[3])};
#pragma unroll
      for (int d = 0; d < kDim; d += 16) {
        unsigned b[4];
        const int key = k + lane / 8 % 2 * 8 + lane % 8;
        load_transposed_matrices(values + key * kStride<kDim> + d + lane / 16 * 8, b);
        multiply(a, b[0], b[1], output[d / 8]);
        multiply(a, b[2], b[3], output[d / 8 + 1]);
      }
    }
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

bool on_16_bytes(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

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
