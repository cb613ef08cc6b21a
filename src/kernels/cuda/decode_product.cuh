// Products of packed weights with a few tokens, on the tensor cores, in bytes (decode_tiles.cuh has
// the division of the work, cell_products.cuh the arithmetic).
#pragma once

#include <type_traits>

#include "kernels/cuda/cell_products.cuh"
#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/decode_tiles.cuh"
#include "kernels/cuda/kernel_overlap.cuh"
#include "kernels/cuda/weight_ring.cuh"

namespace d2q::cuda {

/// Some 9 KB on their way for each warp cover the latency of the memory.
constexpr int kChunksAhead = 4;

/// What a block of threads has in shared memory.
struct DecodeShared {
  WeightRings<kDecodeWarps, kChunksAhead> rings;
  float* parts;
};
template <typename Chunk>
__host__ __device__ size_t decode_shared(const DecodeProduct& p, int n_tiles, unsigned char* memory,
                                         DecodeShared& shared) {
  unsigned char* next = memory;
  shared.rings.memory = next, next += kDecodeWarps * kChunksAhead * Chunk::kBytes;
  shared.rings.stage_bytes = Chunk::kBytes;
  shared.rings.barriers = reinterpret_cast<uint64_t*>(next);
  next += shared.rings.kBarriers * sizeof(uint64_t);
  shared.parts = reinterpret_cast<float*>(next);
  next += (kDecodeWarps + n_tiles) * p.n_tokens * kTileRows * 4;
  return static_cast<size_t>(next - memory);
}

/// Tiles of four tokens.
template <typename F, int kGroups, int kTokenTiles>
__global__ __launch_bounds__(32 * kDecodeWarps) void multiply_cells(
    const __grid_constant__ DecodeProduct p, const __grid_constant__ DecodeCut cut) {
  using Chunk = DecodeChunk<F, kGroups>;
  extern __shared__ __align__(128) unsigned char memory[];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  let_next_kernel_start();

  const TileRun run = tile_run(p, cut);
  DecodeShared shared{};
  decode_shared<Chunk>(p, run.n_tiles, memory, shared);
  shared.rings.prepare();
  __syncthreads();
  WeightRing<kDecodeWarps, kChunksAhead, false> ring(shared.rings, warp);
  ChunkRequests requests;
  requests.start(p, cut, warp);
  const auto request = [&] {
    while (!requests.is_done() && !ring.is_full()) {
      const unsigned char* from;
      int bytes;
      requests.next(p, cut, from, bytes);
      ring.request(lane, from, bytes);
    }
  };
  // Weights do not come from the kernels before.
  request();
  wait_for_kernels_before();

  float sums[kTokenTiles][2] = {};
  const auto add = [&](const unsigned char* cells, int block, int n_cells) {
#pragma unroll 1
    for (int i = 0; i < n_cells; ++i) {
      add_bytes<F, kGroups, kTokenTiles>(cells + i * Chunk::kCellBytes,
                                         p.input + (block + i) * p.n_tokens, p.n_tokens, lane,
                                         sums);
    }
  };
  const auto finish = [&](int of_run) {
    float* target = shared.parts + (warp + of_run) * p.n_tokens * kTileRows + lane / 4;
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int token = 4 * tile + lane % 4;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& sum = sums[tile][i];
        if (token < p.n_tokens) target[token * kTileRows + 8 * i] = F::kPlanes ? 2.0f * sum : sum;
        sum = 0.0f;
      }
    }
  };
  multiply_run(WarpRun(p, cut, run, warp), cut, p.n_blocks, lane, ring, add, request, finish);
  sync_warps<kDecodeWarps>();
  const int thread = static_cast<int>(threadIdx.x);
  const RowPlace row = row_place(p, run, cut, thread);
  write_rows(p, run, cut, shared.parts, thread, row, [&](const RowPlace& place, float value) {
    float* y = p.y + place.token * p.y_stride + place.column;
    *y = p.output == ProductOutput::kAdd ? __ldcg(y) + value : value;
  });
}

/// The launch for a format; explicitly instantiated in decode_product_*.cu.
template <typename F>
cudaError_t launch_decode_format(const DecodeProduct& p, const Launch& launch) {
  const auto run = [&](auto groups, auto token_tiles) {
    constexpr int kGroups = decltype(groups)::value;
    using Chunk = DecodeChunk<F, kGroups>;
    // One block of threads a multiprocessor, all with equal work, unless the sums of that many rows
    // would crowd shared memory.
    constexpr int kPartBytes = 48 << 10;
    const int fitting_tiles = kPartBytes / (p.n_tokens * kTileRows * 4) - kDecodeWarps;
    int n_blocks = launch.n_processors;
    DecodeCut cut = cut_product(p, n_blocks);
    while (most_tiles(p, cut) > fitting_tiles) {
      cut = cut_product(p, n_blocks += launch.n_processors);
    }
    if (cut.n_blocks == 0) return cudaSuccess;
    DecodeShared layout{};
    const size_t bytes = decode_shared<Chunk>(p, most_tiles(p, cut), nullptr, layout);
    const auto kernel = multiply_cells<F, kGroups, decltype(token_tiles)::value>;
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
    return launch_overlapped(kernel, launch, dim3(static_cast<unsigned>(cut.n_blocks)),
                             32 * kDecodeWarps, bytes, p, cut);
  };
  const auto run_grouped = [&](auto groups) {
    if (p.n_tokens <= 4) return run(groups, std::integral_constant<int, 1>());
    if (p.n_tokens <= 8) return run(groups, std::integral_constant<int, 2>());
    return run(groups, std::integral_constant<int, 4>());
  };
  return p.cell_bytes == DecodeChunk<F, 1>::kCellBytes
             ? run_grouped(std::integral_constant<int, 1>())
             : run_grouped(std::integral_constant<int, 2>());
}

}  // namespace d2q::cuda
