// Products of packed weights with one or a few tokens, on the tensor cores in integers.
//
// A block of threads works on 32 rows at a time; its warps share the columns, 128 at a time. What a
// lane loads from the file's own layout, four rows of an atom in 16 bytes, is by its order a left
// operand of mma.m16n8k32: with g = lane / 4 and t = lane % 4 the lane holds local rows 4g .. 4g +
// 3 (rows 0 to 15 are one row tile, 16 to 31 another) and, of each half block of 64 columns,
// columns 16t .. 16t + 15. Rows 4g and 4g + 1 go into one product, the other two into a second one.
// Codes are masked in place, at the top of their bytes, so that nothing is shifted down.
//
// Activations are pairs of bytes (QuantizedInput): a token is two columns of the right operand, so
// that one product serves four tokens, and both results meet in one lane. Sums over a group are
// exact integers; scales are applied in f32 once a group.
#pragma once

#include <type_traits>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/kernel_overlap.cuh"
#include "kernels/cuda/mma_fragments.cuh"

namespace d2q::cuda {

constexpr int kDecodeRows = 32;

template <bool kSignPlanes, int kBits>
struct DecodeFormat {
  static constexpr bool kPlanes = kSignPlanes;
  static constexpr int kCodeBits = kBits;
  static constexpr int kParams = kSignPlanes ? kBits : 2;
  static constexpr int kOperands = kSignPlanes ? kBits : 1;  // a product for each plane
  static constexpr int kStepBytes = 64 * kBits;
  // 16-byte loads of a lane for half a block.
  static constexpr int kLoads = kBits == 2 ? 1 : kBits == 8 ? 4 : 2;
  // Blocks of 128 columns that a warp has in flight.
  static constexpr int kDepth = kBits == 2 ? 4 : kBits == 8 ? 2 : 3;
  // What an operand's codes are multiplied by for lying at the top of their bytes.
  static constexpr int kUnit = kBits == 2 ? 64 : kBits == 3 ? 32 : kBits == 4 ? 16 : 1;
};

__device__ inline unsigned word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// What a lane holds of 32 rows by 128 columns.
template <typename F, int kGroups>
struct LaneBlock {
  uint4 codes[2][F::kLoads];
  uint2 params[kGroups][F::kParams];  // of its four rows, f16

  /// Operand `operand` at row `row` and columns 4p .. 4p + 3 of the lane's 16 in a half.
  __device__ unsigned bytes(int half, int operand, int row, int p, bool odd_lane) const {
    const auto& loads = codes[half];
    if constexpr (F::kCodeBits == 8) {
      return word_of(loads[p], row);
    } else if constexpr (F::kCodeBits == 4) {
      const unsigned word = word_of(loads[p / 2], row);
      return (p % 2 == 0 ? word << 4 : word) & 0xf0f0f0f0u;
    } else {
      const unsigned word = word_of(loads[0], row);
      if constexpr (F::kCodeBits == 2) {
        return word << (6 - 2 * p) & (F::kPlanes ? 0x40404040u << operand : 0xc0c0c0c0u);
      } else {
        if (F::kPlanes && operand < 2) return word << (6 - 2 * p) & 0x40404040u << operand;
        // The third bits of an odd lane's columns are the upper four of each byte.
        const unsigned third =
            word_of(loads[1], row) << (odd_lane ? 0 : 4) << (3 - p) & 0x80808080u;
        if constexpr (F::kPlanes) return third;
        return third | ((p < 3 ? word << (5 - 2 * p) : word >> 1) & 0x60606060u);
      }
    }
  }
};

/// Where the codes and scales of a lane's row tile begin.
struct LaneTile {
  const unsigned char* codes = nullptr;  // null past the last tile
  const unsigned short* scales = nullptr;
};

/// Row tile `half` (0 or 1) of the 32 rows `index`.
struct TilePlace {
  int part;
  int tile;  // may lie past the part's last one
};
__device__ inline TilePlace tile_place(const DecodeProduct& p, int index, int half) {
  if (p.output == ProductOutput::kGated) return {half, index};
  int tile = 2 * index + half;
  for (int part = 0; part + 1 < p.n_parts; ++part) {
    const int n_tiles = (p.parts[part].rows + 15) / 16;
    if (tile < n_tiles) return {part, tile};
    tile -= n_tiles;
  }
  return {p.n_parts - 1, tile};
}

template <typename F>
__device__ LaneTile lane_tile(const DecodeProduct& p, int index, int lane) {
  const TilePlace place = tile_place(p, index, lane / 16);
  const ProductPart& part = p.parts[place.part];
  if (16 * place.tile >= part.rows) return {};
  const int t = lane % 4, row = 4 * (lane / 4 % 4);
  const int64_t tile = place.tile;
  // The second half of a step's columns lies half a step on; with 3 bits, one atom.
  const int odd = t % 2 * (F::kCodeBits == 3 ? 64 : F::kStepBytes / 2);
  return {part.codes + tile * p.tile_steps * F::kStepBytes + t / 2 * F::kStepBytes + odd + 4 * row,
          part.scales + tile * p.n_groups * F::kParams * 16 + row};
}

template <typename F, int kGroups>
__device__ void load_block(const DecodeProduct& p, const LaneTile& tile, int block, int lane,
                           LaneBlock<F, kGroups>& out) {
  const int t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int step = 4 * block + 2 * half;  // and the next one for the lanes with t >= 2
    const bool there = tile.codes != nullptr && step + t / 2 < p.tile_steps;
    const unsigned char* source = tile.codes + static_cast<int64_t>(step) * F::kStepBytes;
#pragma unroll
    for (int i = 0; i < F::kLoads; ++i) {
      const int offset = F::kCodeBits == 3 && i == 1 ? 128 - t % 2 * 64 : 64 * i;
      out.codes[half][i] = load_streamed(source + offset, there);
    }
  }
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    // Groups of 64 are by far the commonest besides those of 128: no division for either.
    const int halves = 2 * block + i;
    const int group =
        p.group_halves * kGroups == 2 ? (kGroups == 2 ? halves : block) : halves / p.group_halves;
    const bool there = tile.codes != nullptr && group < p.n_groups;
    const unsigned short* source = tile.scales + static_cast<int64_t>(group) * F::kParams * 16;
#pragma unroll
    for (int k = 0; k < F::kParams; ++k) {
      out.params[i][k] = load_constant(source + 16 * k, there);
    }
  }
}

/// The four rows' values of a parameter.
__device__ inline void widen(const uint2& halves, float (&values)[4]) {
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&halves.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&halves.y));
  values[0] = low.x, values[1] = low.y, values[2] = high.x, values[3] = high.y;
}

/// sums[tile of four tokens][row] += the block's products: the lane's token is 4 tile + lane % 4.
template <typename F, int kGroups, int kTokenTiles>
__device__ void add_block(const LaneBlock<F, kGroups>& w, const QuantizedInput& x, int block,
                          int n_tokens, int lane, float (&sums)[kTokenTiles][4]) {
  constexpr float kPerUnit = 1.0f / static_cast<float>(F::kPlanes ? 32 : F::kUnit);
  const int g = lane / 4, t = lane % 4;
  const bool odd_lane = t % 2 != 0;
  int products[kTokenTiles][F::kOperands][2][4];
  float totals[kTokenTiles];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool first = half == 0 || kGroups == 2;
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int column = 8 * tile + g;
      uint4 words = {0, 0, 0, 0};
      if (column < 2 * n_tokens) {
        words = *reinterpret_cast<const uint4*>(
            x.words + (static_cast<int64_t>(block) * 2 * n_tokens + column) * 32 + 16 * half +
            4 * t);
      }
      if (first) {
        const int token = min(4 * tile + t, n_tokens - 1);
        const int* sum = x.totals + (block * n_tokens + token) * 2;
        const int total = kGroups == 2 ? sum[half] : sum[0] + sum[1];
        totals[tile] = static_cast<float>(total);
        // A plane's sum is that of bits, its value 2 bits - 1.
#pragma unroll
        for (int k = 0; k < F::kOperands; ++k) {
          const int start = F::kPlanes ? -(k == 0 ? 32 : 64) * total : 0;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            products[tile][k][i][0] = 0, products[tile][k][i][1] = start;
            products[tile][k][i][2] = 0, products[tile][k][i][3] = start;
          }
        }
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const unsigned b0 = step == 0 ? words.x : words.z, b1 = step == 0 ? words.y : words.w;
#pragma unroll
        for (int k = 0; k < F::kOperands; ++k) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const unsigned a[4] = {w.bytes(half, k, 2 * i, 2 * step, odd_lane),
                                   w.bytes(half, k, 2 * i + 1, 2 * step, odd_lane),
                                   w.bytes(half, k, 2 * i, 2 * step + 1, odd_lane),
                                   w.bytes(half, k, 2 * i + 1, 2 * step + 1, odd_lane)};
            multiply_bytes(a, b0, b1, products[tile][k][i], products[tile][k][i]);
          }
        }
      }
    }
    if (kGroups == 1 && half == 0) continue;

    float params[F::kParams][4];
#pragma unroll
    for (int k = 0; k < F::kParams; ++k) widen(w.params[kGroups == 2 ? half : 0][k], params[k]);
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int token = min(4 * tile + t, n_tokens - 1);
      const float step = x.steps[block * n_tokens + token] * kPerUnit;
#pragma unroll
      for (int row = 0; row < 4; ++row) {
        float value[F::kOperands];
#pragma unroll
        for (int k = 0; k < F::kOperands; ++k) {
          const int(&pair)[4] = products[tile][k][row / 2];
          value[k] = static_cast<float>(256 * pair[row % 2 * 2] + pair[row % 2 * 2 + 1]);
        }
        float product;
        if constexpr (F::kPlanes) {
          product = params[0][row] * value[0];
#pragma unroll
          for (int k = 1; k < F::kOperands; ++k) product += 0.5f * params[k][row] * value[k];
        } else {
          const float zero = static_cast<float>(F::kUnit) * params[1][row];
          product = params[0][row] * (value[0] - zero * totals[tile]);
        }
        sums[tile][row] += step * product;
      }
    }
  }
}

/// Adds up what the warps have of 32 rows and writes it. part: [warps][tokens][32]. A call, because
/// copies in the unrolled loop would crowd the instruction cache, which each kernel finds cold.
static __device__ __noinline__ void write_rows(const DecodeProduct& p, int index,
                                               const float* part) {
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  for (int i = static_cast<int>(threadIdx.x); i < p.n_tokens * kDecodeRows;
       i += static_cast<int>(blockDim.x)) {
    const int row = i % kDecodeRows, token = i / kDecodeRows;  // a warp has one token
    float total = 0.0f;
    for (int warp = 0; warp < n_warps; ++warp) {
      total += part[(warp * p.n_tokens + token) * kDecodeRows + row];
    }
    const TilePlace place = tile_place(p, index, row / 16);
    const ProductPart& of = p.parts[place.part];
    const int of_part = 16 * place.tile + row % 16;
    const bool there = of_part < of.rows;
    if (there && of.bias != nullptr) total += of.bias[of_part];
    float* y = p.y + token * p.y_stride + of.first_column + of_part;
    if (p.output == ProductOutput::kGated) {
      const float up = __shfl_down_sync(0xffffffffu, total, 16);
      if (there && row < 16) *y = activation_of(p.curve, total) * up;
    } else if (there) {
      *y = p.output == ProductOutput::kAdd ? __ldcg(y) + total : total;
    }
  }
}

/// Shared memory: the warps' sums twice and, where the block quantizes its own input, room for
/// normalising it, and the result.
struct DecodeShared {
  float* part;  // two times [warps][tokens][32]
  float* scratch;
  float* raw;
  QuantizedInput input;
};
inline __host__ __device__ size_t decode_shared(const DecodeProduct& p, int n_warps,
                                                unsigned char* memory, DecodeShared& shared) {
  auto* next = reinterpret_cast<float*>(memory);
  shared.part = next, next += 2 * n_warps * p.n_tokens * kDecodeRows;
  if (p.x != nullptr) {
    shared.scratch = next, next += 32;
    shared.raw = next, next += p.norm.gain != nullptr ? p.n_blocks * kInputBlock : 0;
    shared.input.words = reinterpret_cast<unsigned*>(next), next += p.n_blocks * 64;
    shared.input.steps = next, next += p.n_blocks;
    shared.input.totals = reinterpret_cast<int*>(next), next += 2 * p.n_blocks;
  }
  return reinterpret_cast<uintptr_t>(next) - reinterpret_cast<uintptr_t>(memory);
}

/// kOwnInput: one token, which every block of threads quantizes itself.
template <typename F, int kGroups, int kTokenTiles, bool kOwnInput>
__global__ __launch_bounds__(kTokenTiles == 4 ? 256 : 512) void multiply_decoded(
    const __grid_constant__ DecodeProduct p, int n_indices) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int n_warps = static_cast<int>(blockDim.x) / 32;
  const int first_index = static_cast<int>(blockIdx.x), stride = static_cast<int>(gridDim.x);
  let_next_kernel_start();

  // The warp's blocks of columns are warp, warp + n_warps, ... of each of its row indices in turn.
  LaneBlock<F, kGroups> ring[F::kDepth];
  int load_index = first_index, load_at = warp;
  LaneTile tile = lane_tile<F>(p, load_index, lane);
  const auto load_next = [&](LaneBlock<F, kGroups>& slot) {
    if (load_index >= n_indices || load_at >= p.n_blocks) return;
    load_block<F>(p, tile, load_at, lane, slot);
    load_at += n_warps;
    if (load_at >= p.n_blocks) {
      load_at = warp;
      load_index += stride;
      if (load_index < n_indices) tile = lane_tile<F>(p, load_index, lane);
    }
  };
#pragma unroll
  for (int i = 0; i < F::kDepth; ++i) load_next(ring[i]);

  DecodeShared own{};
  decode_shared(p, n_warps, shared, own);
  wait_for_kernels_before();
  QuantizedInput x = p.input;
  if constexpr (kOwnInput) {
    x = own.input;
    quantize_row(p.x, p.norm, p.cols, p.n_blocks, own.raw, own.scratch,
                 [&](int block) -> QuantizedInput {
                   return {x.words + block * 64, x.steps + block, x.totals + 2 * block};
                 });
    __syncthreads();
  }

  float sums[kTokenTiles][4] = {};
  int index = first_index, at = warp, parity = 0;
  const auto finish_rows = [&] {
    float* rows = own.part + parity * n_warps * p.n_tokens * kDecodeRows;
    float* mine = rows + warp * p.n_tokens * kDecodeRows;
#pragma unroll
    for (int i = 0; i < kTokenTiles; ++i) {
      const int token = 4 * i + lane % 4;
      if (token < p.n_tokens) {
        *reinterpret_cast<float4*>(mine + token * kDecodeRows + lane / 4 * 4) = {
            sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
      }
      for (float& sum : sums[i]) sum = 0.0f;
    }
    __syncthreads();
    // The other half is written next, and this one again only after the next barrier.
    write_rows(p, index, rows);
    parity ^= 1;
    index += stride;
  };
  if (warp >= p.n_blocks) {
    while (index < n_indices) finish_rows();
    return;
  }
  while (index < n_indices) {
#pragma unroll
    for (int i = 0; i < F::kDepth; ++i) {
      if (index >= n_indices) break;
      add_block<F, kGroups, kTokenTiles>(ring[i], x, at, kOwnInput ? 1 : p.n_tokens, lane, sums);
      load_next(ring[i]);
      at += n_warps;
      if (at >= p.n_blocks) {
        at = warp;
        finish_rows();
      }
    }
  }
}

/// The launch for a format; explicitly instantiated in decode_product_*.cu.
template <typename F>
cudaError_t launch_decode_format(const DecodeProduct& p, const Launch& launch,
                                 const ProductCut& cut) {
  const bool fine_groups = p.group_halves % 2 != 0;
  const int token_tiles = p.n_tokens <= 4 ? 1 : p.n_tokens <= 8 ? 2 : 4;
  int n_indices = 0;
  for (int i = 0; i < (p.output == ProductOutput::kGated ? 1 : p.n_parts); ++i) {
    n_indices += (p.parts[i].rows + 15) / 16;
  }
  if (p.output != ProductOutput::kGated) n_indices = (n_indices + 1) / 2;
  if (n_indices == 0) return cudaSuccess;
  int n_warps = cut.n_warps > 0 ? cut.n_warps : token_tiles == 4 ? 8 : 16;
  n_warps = n_warps < p.n_blocks ? n_warps : p.n_blocks;
  // Equal shares: as many blocks of threads as fit side by side, or fewer with the same work each.
  const int side_by_side = launch.n_processors *
                           (cut.blocks_per_processor > 0 ? cut.blocks_per_processor : 16 / n_warps);
  const int rounds = (n_indices + side_by_side - 1) / side_by_side;
  const auto n_blocks = static_cast<unsigned>((n_indices + rounds - 1) / rounds);
  DecodeShared layout{};
  const size_t bytes = decode_shared(p, n_warps, nullptr, layout);

  const auto run = [&](auto kernel) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
    return launch_overlapped(kernel, launch, dim3(n_blocks), 32 * n_warps, bytes, p, n_indices);
  };
  const auto run_grouped = [&](auto groups) {
    constexpr int kGroups = decltype(groups)::value;
    if (p.x != nullptr) return run(multiply_decoded<F, kGroups, 1, true>);
    return token_tiles == 1   ? run(multiply_decoded<F, kGroups, 1, false>)
           : token_tiles == 2 ? run(multiply_decoded<F, kGroups, 2, false>)
                              : run(multiply_decoded<F, kGroups, 4, false>);
  };
  return fine_groups ? run_grouped(std::integral_constant<int, 2>())
                     : run_grouped(std::integral_constant<int, 1>());
}

}  // namespace d2q::cuda
