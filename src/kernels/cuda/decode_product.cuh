// Products of packed weights with one or a few tokens, on the tensor cores, in integers.
//
// A block of threads has a run of row tiles; its warps have equal runs of their pieces, chunks of
// a few cells, bring them into shared memory ahead of time (WeightRing), and multiply them one
// after the other (cell_products.cuh). The sums of a row tile wait in shared memory for its other
// warps.
#pragma once

#include <type_traits>

#include "kernels/cuda/cell_products.cuh"
#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/kernel_overlap.cuh"
#include "kernels/cuda/packed_format.cuh"
#include "kernels/cuda/weight_ring.cuh"

namespace d2q::cuda {

/// The pieces in which a format's weights are copied, kGroups groups a cell: about 2 KB each, and
/// about 7 KB on their way for each warp, which covers the latency of the memory.
template <typename F, int kGroups>
struct DecodeChunk {
  static constexpr int kCellBytes = F::kCellCodeBytes + kGroups * F::kCellGroupBytes;
  static constexpr int kMostCells = 2600 / kCellBytes;
  static constexpr int kCells = kMostCells < 1 ? 1 : kMostCells < 4 ? kMostCells : 4;
  static constexpr int kBytes = kCells * kCellBytes;
  static constexpr int kStages = kBytes <= 1700 ? 4 : 3;
  using Ring = WeightRing<kStages, kBytes>;
};

/// How a product is cut. A unit is a row tile or, when the product is gated, one of the gate and
/// the same one of the other matrix; the first `n_larger` blocks of threads have one more.
struct DecodeCut {
  int block_units;
  int n_larger;
  int tile_chunks;
};

/// The row tiles of a block of threads: `n_tiles` from the unit `first_unit` on.
struct TileRun {
  int first_unit;
  int n_units;
  int n_tiles;
};
__device__ inline TileRun tile_run(const DecodeProduct& p, const DecodeCut& cut) {
  const int block = static_cast<int>(blockIdx.x);
  const int n = cut.block_units + (block < cut.n_larger ? 1 : 0);
  return {block * cut.block_units + min(block, cut.n_larger), n,
          p.output == ProductOutput::kGated ? 2 * n : n};
}

/// Which rows tile `index` of a run has.
struct TilePlace {
  int part;
  int tile;
};
__device__ inline TilePlace tile_place(const DecodeProduct& p, const TileRun& run, int index) {
  if (p.output == ProductOutput::kGated) return {index % 2, run.first_unit + index / 2};
  int tile = run.first_unit + index;
  for (int part = 0; part + 1 < p.n_parts; ++part) {
    const int n_tiles = (p.parts[part].rows + kTileRows - 1) / kTileRows;
    if (tile < n_tiles) return {part, tile};
    tile -= n_tiles;
  }
  return {p.n_parts - 1, tile};
}

/// A place in the chunks of a run: cells first_cell .. of tile `tile`.
struct ChunkPlace {
  int tile;
  int first_cell;
};

/// What a block of threads has in shared memory.
struct DecodeShared {
  unsigned char* rings;
  QuantizedBlock* input;  // its own
  float* scratch;
  uint64_t* barriers;
  float* parts;  // [warps + tiles][tokens][16]: warp w's sums of tile i are at w + i
};
static_assert(sizeof(QuantizedBlock) % 16 == 0);

template <typename Chunk>
__host__ __device__ size_t decode_shared(const DecodeProduct& p, int n_tiles, unsigned char* memory,
                                         DecodeShared& shared) {
  unsigned char* next = memory;
  shared.rings = next, next += kDecodeWarps * Chunk::Ring::kBytes;
  shared.input = reinterpret_cast<QuantizedBlock*>(next);
  if (p.x != nullptr) next += p.n_blocks * sizeof(QuantizedBlock);
  shared.barriers = reinterpret_cast<uint64_t*>(next), next += kDecodeWarps * Chunk::kStages * 8;
  shared.scratch = reinterpret_cast<float*>(next), next += 2 * kDecodeWarps * 4;
  shared.parts = reinterpret_cast<float*>(next);
  next += (kDecodeWarps + n_tiles) * p.n_tokens * kTileRows * 4;
  return static_cast<size_t>(next - memory);
}

/// Adds up what the warps have of each row and writes it.
static __device__ void write_rows(const DecodeProduct& p, const TileRun& run, int tile_chunks,
                                  int warp_chunks, const float* parts) {
  const int n = run.n_units * p.n_tokens * kTileRows;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const int row = i % kTileRows, token = i / kTileRows % p.n_tokens;
    const int unit = i / kTileRows / p.n_tokens;
    const auto total = [&](int tile, const ProductPart& part, int of_part) {
      const int last = ((tile + 1) * tile_chunks - 1) / warp_chunks;
      float sum = part.bias != nullptr && of_part < part.rows ? part.bias[of_part] : 0.0f;
      for (int warp = tile * tile_chunks / warp_chunks; warp <= last; ++warp) {
        sum += parts[((warp + tile) * p.n_tokens + token) * kTileRows + row];
      }
      return sum;
    };
    const bool gated = p.output == ProductOutput::kGated;
    const int tile = gated ? 2 * unit : unit;
    const TilePlace place = tile_place(p, run, tile);
    const ProductPart& part = p.parts[place.part];
    const int of_part = kTileRows * place.tile + row;
    if (of_part >= part.rows) continue;
    float* y = p.y + token * p.y_stride + part.first_column + of_part;
    const float value = total(tile, part, of_part);
    if (gated) {
      *y = activation_of(p.curve, value) * total(tile + 1, p.parts[1], of_part);
    } else {
      *y = p.output == ProductOutput::kAdd ? __ldcg(y) + value : value;
    }
  }
}

/// kOwnBlocks > 0: one token, which every block of threads quantizes itself, to bits, so many
/// blocks of columns a warp; else tiles of four tokens in bytes.
template <typename F, int kGroups, int kTokenTiles, int kOwnBlocks>
__global__ __launch_bounds__(32 * kDecodeWarps) void multiply_cells(
    const __grid_constant__ DecodeProduct p, const DecodeCut cut) {
  using Chunk = DecodeChunk<F, kGroups>;
  extern __shared__ __align__(128) unsigned char memory[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  let_next_kernel_start();

  const TileRun run = tile_run(p, cut);
  DecodeShared shared{};
  decode_shared<Chunk>(p, run.n_tiles, memory, shared);
  const int n_chunks = run.n_tiles * cut.tile_chunks;
  const int warp_chunks = (n_chunks + kDecodeWarps - 1) / kDecodeWarps;
  const int first_chunk = min(warp * warp_chunks, n_chunks);
  const int last_chunk = min(first_chunk + warp_chunks, n_chunks);

  typename Chunk::Ring ring(shared.rings + warp * Chunk::Ring::kBytes,
                            shared.barriers + warp * Chunk::kStages);
  const ChunkPlace first = {first_chunk / cut.tile_chunks,
                            first_chunk % cut.tile_chunks * Chunk::kCells};
  ChunkPlace wanted = first;
  int n_wanted = last_chunk - first_chunk;
  const unsigned char* wanted_tile = nullptr;
  const auto find_tile = [&] {
    const TilePlace place = tile_place(p, run, wanted.tile);
    wanted_tile = p.parts[place.part].cells +
                  static_cast<int64_t>(place.tile) * p.n_blocks * Chunk::kCellBytes;
  };
  if (n_wanted > 0) find_tile();
  const auto request_next = [&] {
    if (n_wanted <= 0) {
      ring.request(nullptr, 0);
      return;
    }
    const int n_cells = min(Chunk::kCells, p.n_blocks - wanted.first_cell);
    ring.request(wanted_tile + wanted.first_cell * Chunk::kCellBytes, n_cells * Chunk::kCellBytes);
    wanted.first_cell += Chunk::kCells;
    if (--n_wanted > 0 && wanted.first_cell >= p.n_blocks) {
      wanted = {wanted.tile + 1, 0};
      find_tile();
    }
  };
#pragma unroll 1
  for (int i = 0; i < Chunk::kStages; ++i) request_next();

  if constexpr (kOwnBlocks > 0) {
    const BitTranspose transpose(lane);
    quantize_row<kOwnBlocks>(p.x, p.norm, p.cols, shared.scratch, wait_for_kernels_before,
                             [&](int block, const float(&values)[4]) {
                               store_bits(values, transpose, shared.input[block]);
                             });
    __syncthreads();
  } else {
    wait_for_kernels_before();
  }

  float sums[kTokenTiles][2] = {};
  ChunkPlace place = first;
  const auto finish_tile = [&] {
    float* target = shared.parts + (warp + place.tile) * p.n_tokens * kTileRows + lane / 4;
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int token = kOwnBlocks > 0 ? 0 : 4 * tile + lane % 4;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& sum = sums[tile][i];
        if constexpr (kOwnBlocks > 0) {
          sum += __shfl_xor_sync(0xffffffffu, sum, 1);
          sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        }
        if (kOwnBlocks > 0 ? lane % 4 == 0 : token < p.n_tokens) {
          target[token * kTileRows + 8 * i] = F::kPlanes ? 2.0f * sum : sum;
        }
        sum = 0.0f;
      }
    }
    place = {place.tile + 1, 0};
  };
  const auto add_cell = [&](const unsigned char* cell, int block) {
    if constexpr (kOwnBlocks > 0) {
      add_bits<F, kGroups>(cell, shared.input[block], lane, sums);
    } else {
      add_bytes<F, kGroups, kTokenTiles>(cell, p.input + block * p.n_tokens, p.n_tokens, lane,
                                         sums);
    }
  };
  for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const unsigned char* cells = ring.receive();
    const int n_cells = min(Chunk::kCells, p.n_blocks - place.first_cell);
    if (kOwnBlocks > 0 && n_cells == Chunk::kCells) {
#pragma unroll
      for (int i = 0; i < Chunk::kCells; ++i) {
        add_cell(cells + i * Chunk::kCellBytes, place.first_cell + i);
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < n_cells; ++i) {
        add_cell(cells + i * Chunk::kCellBytes, place.first_cell + i);
      }
    }
    ring.release();
    request_next();
    place.first_cell += Chunk::kCells;
    if (place.first_cell >= p.n_blocks) finish_tile();
  }
  if (place.first_cell > 0 && first_chunk < last_chunk) finish_tile();
  __syncthreads();
  write_rows(p, run, cut.tile_chunks, warp_chunks, shared.parts);
}

/// The launch for a format; explicitly instantiated in decode_product_*.cu.
template <typename F>
cudaError_t launch_decode_format(const DecodeProduct& p, const Launch& launch) {
  const bool gated = p.output == ProductOutput::kGated;
  int n_units = 0;
  for (int i = 0; i < (gated ? 1 : p.n_parts); ++i) {
    n_units += (p.parts[i].rows + kTileRows - 1) / kTileRows;
  }
  if (n_units == 0) return cudaSuccess;

  const auto run = [&](auto groups, auto token_tiles, auto own_blocks) {
    constexpr int kGroups = decltype(groups)::value;
    using Chunk = DecodeChunk<F, kGroups>;
    // One block of threads a multiprocessor, all with equal work, unless the sums of that many rows
    // would crowd shared memory.
    constexpr int kPartBytes = 48 << 10;
    const int most_tiles = kPartBytes / (p.n_tokens * kTileRows * 4) - kDecodeWarps;
    const int most_units = gated ? most_tiles / 2 : most_tiles;
    int n_blocks = n_units < launch.n_processors ? n_units : launch.n_processors;
    if ((n_units + n_blocks - 1) / n_blocks > most_units) {
      n_blocks = (n_units + most_units - 1) / most_units;
    }
    const DecodeCut cut = {n_units / n_blocks, n_units % n_blocks,
                           (p.n_blocks + Chunk::kCells - 1) / Chunk::kCells};
    const int most = cut.block_units + (cut.n_larger > 0 ? 1 : 0);
    DecodeShared layout{};
    const size_t bytes = decode_shared<Chunk>(p, gated ? 2 * most : most, nullptr, layout);
    const auto kernel =
        multiply_cells<F, kGroups, decltype(token_tiles)::value, decltype(own_blocks)::value>;
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
    return launch_overlapped(kernel, launch, dim3(static_cast<unsigned>(n_blocks)),
                             32 * kDecodeWarps, bytes, p, cut);
  };
  const auto run_grouped = [&](auto groups) {
    constexpr auto kNone = std::integral_constant<int, 0>();
    constexpr auto kOne = std::integral_constant<int, 1>();
    constexpr auto kTwo = std::integral_constant<int, 2>();
    constexpr auto kFour = std::integral_constant<int, 4>();
    if (p.x != nullptr) {
      if (p.n_blocks <= 2 * kDecodeWarps) return run(groups, kOne, kTwo);
      if (p.n_blocks <= 4 * kDecodeWarps) return run(groups, kOne, kFour);
      return run(groups, kOne, std::integral_constant<int, kMostOwnBlocks>());
    }
    if (p.n_tokens <= 4) return run(groups, kOne, kNone);
    if (p.n_tokens <= 8) return run(groups, kTwo, kNone);
    return run(groups, kFour, kNone);
  };
  return p.cell_bytes == DecodeChunk<F, 1>::kCellBytes
             ? run_grouped(std::integral_constant<int, 1>())
             : run_grouped(std::integral_constant<int, 2>());
}

}  // namespace d2q::cuda
