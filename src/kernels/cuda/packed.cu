// Products with packed weights, their expansion, and their bit planes. A warp takes one step (16
// rows by 32 columns) at a time: lane l has row l % 16 and the 16 columns of half l / 16.
#include <cmath>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/kernel_overlap.cuh"
#include "kernels/cuda/packed_format.cuh"

namespace d2q::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

/// A block has one row tile; its warps take the steps in turn and add up at the end in a fixed
/// order.
template <typename F, int kTokens>
__global__ __launch_bounds__(kThreads) void multiply_codes(PackedWeights w, const float* x,
                                                           int n_tokens, bool aligned,
                                                           const float* bias, float* y) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t tile = blockIdx.x;
  float sums[kTokens] = {};
  for (int64_t step = warp; step < w.tile_steps; step += kWarps) {
    visit_weights<F>(w, tile, step, lane, [&](const LaneColumns& columns, const auto& weights) {
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
    });
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
  visit_weights<F>(w, tile, step, lane, [&](const LaneColumns& columns, const auto& weights) {
    const int64_t target = ((tile - first_tile) * kTileRows + lane % 16) * w.cols + columns.begin;
    if (aligned && columns.count == kLaneColumns && out.type == Scalar::kBF16) {
      union {
        uint4 words[2];
        __nv_bfloat162 pairs[kLaneColumns / 2];
      } row = {};
#pragma unroll
      for (int j = 0; j < kLaneColumns; j += 2) {
        row.pairs[j / 2] = __floats2bfloat162_rn(weights[j], weights[j + 1]);
      }
      auto* words = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(out.data) + target);
      words[0] = row.words[0];
      words[1] = row.words[1];
      return;
    }
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) {
      if (j < columns.count) store_value(out, target + j, weights[j]);
    }
  });
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
  visit_weights<F>(w, tile, step, lane, [&](const LaneColumns& columns, const auto& weights) {
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) {
      if (j < columns.count) {
        y[b * w.cols + columns.begin + j] = there ? weights[j] : NAN;
      }
    }
  });
}

/// A warp a cell: lane 4g + t gathers the words of rows g and g + 8 and of columns 32t .. 32t + 31.
template <typename F>
__global__ void to_cells(PackedWeights w, int64_t n_cells, int groups_per_cell,
                         unsigned char* out) {
  const int64_t index = element_index() / 32;
  if (index >= n_cells) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const int64_t tile = index / w.tile_cells, column = index % w.tile_cells;
  unsigned char* cell = out + index * (F::kCellCodeBytes + groups_per_cell * F::kCellGroupBytes);
  const int64_t step = column * kCellSteps + t;
  for (int row = g; row < kTileRows; row += 8) {
    unsigned planes[F::kCodeBits] = {};
    if (step < w.tile_steps) {
      const unsigned char* source = w.codes + (tile * w.tile_steps + step) * F::kStepBytes;
      for (int half = 0; half < 2; ++half) {
        const StepCodes<F> codes(source, row + 16 * half);
#pragma unroll
        for (int j = 0; j < kLaneColumns; ++j) {
          const unsigned code = codes.code(j);
#pragma unroll
          for (int k = 0; k < F::kCodeBits; ++k) {
            planes[k] |= (code >> k & 1u) << (kLaneColumns * half + j);
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < F::kCodeBits; ++k) {
      *reinterpret_cast<unsigned*>(cell + cell_word_offset<F>(k, row, t)) = planes[k];
    }
    if (t >= groups_per_cell) continue;
    // A single group may be shorter than a cell, or longer than all of them.
    const int64_t first = (column * groups_per_cell + t) * (kCellColumns / groups_per_cell);
    const int64_t group = w.n_groups == 1 ? 0 : first / w.group_size;
    auto* params =
        reinterpret_cast<unsigned short*>(cell + F::kCellCodeBytes + t * F::kCellGroupBytes) +
        g * 2 * F::kParams + row / 8;
#pragma unroll
    for (int k = 0; k < F::kParams; ++k) {
      const int64_t source = ((tile * w.n_groups + group) * F::kParams + k) * kTileRows + row;
      params[2 * k] = group < w.n_groups ? w.scales[source] : static_cast<unsigned short>(0);
    }
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
  return with_format(weights.sign_planes, weights.bits, [&](auto format) {
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
  return with_format(weights.sign_planes, weights.bits, [&](auto format) {
    expand<decltype(format)>
        <<<n_blocks, kThreads, 0, stream>>>(weights, first_tile, n_tiles, out, aligned);
    return cudaGetLastError();
  });
}

bool has_cells(const PackedWeights& weights) {
  return weights.group_size % (kCellColumns / 2) == 0 || weights.n_groups == 1;
}

int cell_bytes(const PackedWeights& weights) {
  const bool one_group = weights.n_groups == 1 || weights.group_size % kCellColumns == 0;
  int bytes = 0;
  with_format(weights.sign_planes, weights.bits, [&](auto format) {
    using F = decltype(format);
    bytes = F::kCellCodeBytes + (one_group ? 1 : 2) * F::kCellGroupBytes;
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t launch_to_cells(const PackedWeights& weights, unsigned char* cells,
                            cudaStream_t stream) {
  const int64_t n_cells = (weights.rows + kTileRows - 1) / kTileRows * weights.tile_cells;
  if (n_cells == 0) return cudaSuccess;
  return with_format(weights.sign_planes, weights.bits, [&](auto format) {
    using F = decltype(format);
    const int n_groups = (cell_bytes(weights) - F::kCellCodeBytes) / F::kCellGroupBytes;
    to_cells<F>
        <<<blocks_for(32 * n_cells), kThreads, 0, stream>>>(weights, n_cells, n_groups, cells);
    return cudaGetLastError();
  });
}

cudaError_t launch_decode_embed_packed(const int32_t* tokens, int n_tokens,
                                       const PackedWeights& table, float* y, const Launch& launch) {
  if (n_tokens == 0) return cudaSuccess;
  const dim3 blocks(blocks_for(2 * table.tile_steps), static_cast<unsigned>(n_tokens));
  return with_format(table.sign_planes, table.bits, [&](auto format) {
    return launch_overlapped(embed_packed<decltype(format)>, launch, blocks, kThreads, 0, table,
                             tokens, y);
  });
}

}  // namespace d2q::cuda
