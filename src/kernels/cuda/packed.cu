// Products with packed weights, and their expansion. A warp reads one step (16 rows by 32 columns)
// at a time: lane l has row l % 16 and the 16 columns of half l / 16, so that the atoms of a step
// are read in whole lines.
#include <cmath>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"
#include "kernels/cuda/kernel_overlap.cuh"

namespace d2q::cuda {
namespace {

constexpr int kStepColumns = 32;
constexpr int kTileRows = 16;
constexpr int kLaneColumns = 16;
constexpr int kWarps = kThreads / 32;

template <bool kSignPlanes, int kBits>
struct Format {
  static constexpr bool kPlanes = kSignPlanes;
  static constexpr int kCodeBits = kBits;
  static constexpr int kParams = kSignPlanes ? kBits : 2;
  static constexpr int kStepBytes = 64 * kBits;
  // Words that a lane needs of a step. 3 bits: the third bits of all columns lie in one more atom.
  static constexpr int kWords = kBits == 2 ? 1 : kBits == 8 ? 4 : 2;
};

/// A lane's part of one step.
template <typename F>
struct LaneCodes {
  unsigned words[F::kWords];
  int half;

  __device__ LaneCodes(const unsigned char* step, int lane) : half(lane / 16) {
    const auto* atoms = reinterpret_cast<const unsigned*>(step) + lane % 16;  // 16 words an atom
    if constexpr (F::kCodeBits == 2) {
      words[0] = atoms[16 * half];
    } else if constexpr (F::kCodeBits == 3) {
      words[0] = atoms[16 * half];
      words[1] = atoms[32];
    } else {
#pragma unroll
      for (int i = 0; i < F::kWords; ++i) words[i] = atoms[16 * (F::kWords * half + i)];
    }
  }

  /// The code of the lane's column j in [0, 16).
  __device__ unsigned code(int j) const {
    const int byte = 8 * (j % 4);
    if constexpr (F::kCodeBits == 2) {
      return words[0] >> (byte + 2 * (j / 4)) & 3u;
    } else if constexpr (F::kCodeBits == 3) {
      return (words[0] >> (byte + 2 * (j / 4)) & 3u) | (words[1] >> (byte + 4 * half + j / 4) & 1u)
                                                           << 2;
    } else if constexpr (F::kCodeBits == 4) {
      return words[j / 8] >> (byte + j % 8 / 4 * 4) & 15u;
    } else {
      return words[j / 4] >> byte & 255u;
    }
  }
};

/// weight_of() of codec/packed_geometry.h, with the same roundings.
template <typename F>
__device__ float weight_of(const float (&params)[F::kParams], unsigned code) {
  if constexpr (F::kPlanes) {
    float sum = 0.0f;
#pragma unroll
    for (int plane = 0; plane < F::kParams; ++plane) {
      const unsigned minus = (~code >> plane & 1u) << 31;
      const float value = __uint_as_float(__float_as_uint(params[plane]) ^ minus);
      sum = plane == 0 ? value : __fadd_rn(sum, value);
    }
    return sum;
  } else {
    // A code below 2^23 in the mantissa of 2^23: exact, and cheaper than a conversion.
    const float value = __uint_as_float(0x4b000000u | code) - 8388608.0f;
    return __fmul_rn(params[0], __fsub_rn(value, params[1]));
  }
}

template <typename F>
__device__ void load_params(const PackedWeights& w, int64_t tile, int64_t group, int row,
                            float (&params)[F::kParams]) {
  const auto* source = reinterpret_cast<const __half*>(w.scales) +
                       (tile * w.n_groups + group) * F::kParams * kTileRows + row;
#pragma unroll
  for (int k = 0; k < F::kParams; ++k) params[k] = __half2float(source[k * kTileRows]);
}

/// Where a lane's 16 columns of a step lie in the matrix.
struct LaneColumns {
  int64_t group;
  int64_t begin;
  int count;  // of them, the rest is padding; may be <= 0
};

__device__ inline LaneColumns lane_columns(const PackedWeights& w, int64_t step, int lane) {
  // Steps of a tile are fewer than 2^32 (cols < 2^31), and 64-bit division is slow.
  const int64_t group = static_cast<unsigned>(step) / static_cast<unsigned>(w.group_steps);
  const int64_t begin = group * w.group_size + (step - group * w.group_steps) * kStepColumns +
                        lane / 16 * kLaneColumns;
  const int64_t end = min((group + 1) * w.group_size, w.cols);
  return {group, begin, static_cast<int>(min(end - begin, static_cast<int64_t>(kLaneColumns)))};
}

/// A block has one row tile; its warps take the steps in turn and add up at the end in a fixed
/// order.
template <typename F, int kTokens>
__global__ __launch_bounds__(kThreads) void multiply_codes(PackedWeights w, const float* x,
                                                           int n_tokens, bool aligned,
                                                           const float* bias, float* y) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t tile = blockIdx.x;
  const unsigned char* codes = w.codes + tile * w.tile_steps * F::kStepBytes;
  float sums[kTokens] = {};
  for (int64_t step = warp; step < w.tile_steps; step += kWarps) {
    const LaneColumns columns = lane_columns(w, step, lane);
    if (columns.count <= 0) continue;
    const LaneCodes<F> packed(codes + step * F::kStepBytes, lane);
    float params[F::kParams];
    load_params<F>(w, tile, columns.group, lane % 16, params);
    float weights[kLaneColumns];
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) weights[j] = weight_of<F>(params, packed.code(j));
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= n_tokens) break;
      const float* source = x + t * w.cols + columns.begin;
      if (aligned && columns.count == kLaneColumns) {
        const auto* fours = reinterpret_cast<const float4*>(source);
#pragma unroll
        for (int j = 0; j < kLaneColumns; j += 4) {
          const float4 four = fours[j / 4];
          sums[t] += weights[j] * four.x + weights[j + 1] * four.y + weights[j + 2] * four.z +
                     weights[j + 3] * four.w;
        }
      } else {
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
          if (j < columns.count) sums[t] += weights[j] * source[j];
        }
      }
    }
  }

  __shared__ float of_warp[kWarps][kTokens][kTileRows];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float both = sums[t] + __shfl_xor_sync(0xffffffffu, sums[t], 16);
    if (lane < kTileRows) of_warp[warp][t][lane] = both;
  }
  __syncthreads();
  const int token = static_cast<int>(threadIdx.x) / kTileRows;
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const int64_t out = tile * kTileRows + row;
  if (token >= kTokens || token >= n_tokens || out >= w.rows) return;
  float total = 0.0f;
  for (int i = 0; i < kWarps; ++i) total += of_warp[i][token][row];
  y[token * w.rows + out] = bias != nullptr ? total + bias[out] : total;
}

/// A warp a step.
template <typename F>
__global__ void expand(PackedWeights w, int64_t first_tile, int64_t n_tiles, Values out,
                       bool aligned) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t index = element_index() / 32;
  if (index >= n_tiles * w.tile_steps) return;
  const int64_t tile = first_tile + index / w.tile_steps;
  const int64_t step = index % w.tile_steps;
  const LaneColumns columns = lane_columns(w, step, lane);
  if (columns.count <= 0) return;
  const LaneCodes<F> packed(w.codes + (tile * w.tile_steps + step) * F::kStepBytes, lane);
  float params[F::kParams];
  load_params<F>(w, tile, columns.group, lane % 16, params);
  const int64_t target = ((tile - first_tile) * kTileRows + lane % 16) * w.cols + columns.begin;
  if (aligned && columns.count == kLaneColumns && out.type == Scalar::kBF16) {
    union {
      uint4 words[2];
      __nv_bfloat162 pairs[kLaneColumns / 2];
    } row = {};
#pragma unroll
    for (int j = 0; j < kLaneColumns; j += 2) {
      row.pairs[j / 2] = __floats2bfloat162_rn(weight_of<F>(params, packed.code(j)),
                                               weight_of<F>(params, packed.code(j + 1)));
    }
    auto* words = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(out.data) + target);
    words[0] = row.words[0];
    words[1] = row.words[1];
    return;
  }
#pragma unroll
  for (int j = 0; j < kLaneColumns; ++j) {
    if (j < columns.count) store_value(out, target + j, weight_of<F>(params, packed.code(j)));
  }
}

/// Rows of the matrix, one a token; a thread has 16 columns.
template <typename F>
__global__ void embed_packed(PackedWeights w, const int32_t* tokens, float* y) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const int64_t index = element_index(), step = index / 2, b = blockIdx.y;
  if (step >= w.tile_steps) return;
  const int64_t token = tokens[b];
  const bool there = token >= 0 && token < w.rows;
  const int64_t row = there ? token : 0, tile = row / kTileRows;
  const int lane = static_cast<int>(row % kTileRows + kTileRows * (index % 2));
  const LaneColumns columns = lane_columns(w, step, lane);
  if (columns.count <= 0) return;
  const LaneCodes<F> packed(w.codes + (tile * w.tile_steps + step) * F::kStepBytes, lane);
  float params[F::kParams];
  load_params<F>(w, tile, columns.group, lane % 16, params);
#pragma unroll
  for (int j = 0; j < kLaneColumns; ++j) {
    if (j < columns.count) {
      y[b * w.cols + columns.begin + j] = there ? weight_of<F>(params, packed.code(j)) : NAN;
    }
  }
}

/// run(Format) for the weights' one.
template <typename Run>
cudaError_t with_format(const PackedWeights& weights, const Run& run) {
  if (weights.sign_planes) {
    return weights.bits == 2 ? run(Format<true, 2>()) : run(Format<true, 3>());
  }
  switch (weights.bits) {
    case 2:
      return run(Format<false, 2>());
    case 3:
      return run(Format<false, 3>());
    case 4:
      return run(Format<false, 4>());
    default:
      return run(Format<false, 8>());
  }
}

/// Whether every lane's run of columns starts on a multiple of 8 columns in every row of a matrix
/// at `data`, itself on 16 bytes.
bool is_aligned(const PackedWeights& weights, const void* data) {
  return weights.cols % 8 == 0 && (weights.group_size % 8 == 0 || weights.n_groups == 1) &&
         reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

}  // namespace

cudaError_t launch_packed_product(const PackedWeights& weights, const float* x, int64_t n_tokens,
                                  const float* bias, float* y, cudaStream_t stream) {
  if (n_tokens == 0) return cudaSuccess;
  const unsigned n_tiles = blocks_for(weights.rows, kTileRows);
  const bool aligned = is_aligned(weights, x);
  return with_format(weights, [&](auto format) {
    using F = decltype(format);
    if (n_tokens == 1) {
      multiply_codes<F, 1><<<n_tiles, kThreads, 0, stream>>>(weights, x, 1, aligned, bias, y);
    } else {
      multiply_codes<F, kMaxPackedTokens><<<n_tiles, kThreads, 0, stream>>>(
          weights, x, static_cast<int>(n_tokens), aligned, bias, y);
    }
    return cudaGetLastError();
  });
}

cudaError_t launch_expand(const PackedWeights& weights, int64_t first_tile, int64_t n_tiles,
                          const Values& out, cudaStream_t stream) {
  if (n_tiles == 0) return cudaSuccess;
  const bool aligned = is_aligned(weights, out.data);
  const unsigned n_blocks = blocks_for(n_tiles * weights.tile_steps * 32);
  return with_format(weights, [&](auto format) {
    expand<decltype(format)>
        <<<n_blocks, kThreads, 0, stream>>>(weights, first_tile, n_tiles, out, aligned);
    return cudaGetLastError();
  });
}

cudaError_t launch_decode_embed_packed(const int32_t* tokens, int n_tokens,
                                       const PackedWeights& table, float* y, const Launch& launch) {
  if (n_tokens == 0) return cudaSuccess;
  const dim3 blocks(blocks_for(2 * table.tile_steps), static_cast<unsigned>(n_tokens));
  return with_format(table, [&](auto format) {
    return launch_overlapped(embed_packed<decltype(format)>, launch, blocks, kThreads, 0, table,
                             tokens, y);
  });
}

}  // namespace d2q::cuda
