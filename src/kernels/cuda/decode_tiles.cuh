// How products of packed weights with one or a few tokens are cut: a block of threads has a run of
// row tiles; its warps have equal runs of their pieces, chunks of a few cells, so that a tile's
// sums come from several warps.
#pragma once

#include <type_traits>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"
#include "kernels/cuda/packed_format.cuh"

namespace d2q::cuda {

/// Weights are copied in pieces of a few cells, about 2 KB each.
__host__ __device__ constexpr int chunk_cells(int cell_bytes) {
  const int most = 2600 / cell_bytes;
  return most < 1 ? 1 : most < 4 ? most : 4;
}

/// The pieces of a format, kGroups groups a cell.
template <typename F, int kGroups>
struct DecodeChunk {
  static constexpr int kCellBytes = F::kCellCodeBytes + kGroups * F::kCellGroupBytes;
  static constexpr int kCells = chunk_cells(kCellBytes);
  static constexpr int kBytes = kCells * kCellBytes;
};

/// run(Format, groups of a cell) for the weights of a product.
template <typename Run>
__device__ void with_cells(const DecodeProduct& p, const Run& run) {
  const auto grouped = [&](auto format) {
    using F = decltype(format);
    if (p.cell_bytes == F::kCellCodeBytes + F::kCellGroupBytes) {
      run(format, std::integral_constant<int, 1>());
    } else {
      run(format, std::integral_constant<int, 2>());
    }
  };
  if (p.sign_planes) {
    p.bits == 2 ? grouped(Format<true, 2>()) : grouped(Format<true, 3>());
  } else if (p.bits == 2) {
    grouped(Format<false, 2>());
  } else if (p.bits == 3) {
    grouped(Format<false, 3>());
  } else if (p.bits == 4) {
    grouped(Format<false, 4>());
  } else {
    grouped(Format<false, 8>());
  }
}

__host__ __device__ inline int tiles_of(const ProductPart& part) {
  return (part.rows + kTileRows - 1) / kTileRows;
}

/// Cuts a product for `n_blocks` blocks of threads, fewer when there are not that many units.
inline DecodeCut cut_product(const DecodeProduct& p, int n_blocks) {
  int n_units = 0;
  for (int i = 0; i < (p.output == ProductOutput::kGated ? 1 : p.n_parts); ++i) {
    n_units += tiles_of(p.parts[i]);
  }
  if (n_blocks > n_units) n_blocks = n_units;
  if (n_blocks == 0) return {};
  const int n_cells = chunk_cells(p.cell_bytes);
  const int tile_chunks = (p.n_blocks + n_cells - 1) / n_cells;
  return {.n_blocks = n_blocks,
          .block_units = n_units / n_blocks,
          .n_larger = n_units % n_blocks,
          .chunk_cells = n_cells,
          .tile_chunks = tile_chunks,
          .per_tile_chunk = 1.0f / static_cast<float>(tile_chunks)};
}

/// Row tiles that a block of threads has at most.
inline int most_tiles(const DecodeProduct& p, const DecodeCut& cut) {
  const int n_units = cut.block_units + (cut.n_larger > 0 ? 1 : 0);
  return p.output == ProductOutput::kGated ? 2 * n_units : n_units;
}

/// The row tiles of a block of threads: `n_tiles` from the unit `first_unit` on. Of their chunks
/// each warp has `warp_chunks`, the last ones fewer or none.
struct TileRun {
  int first_unit;
  int n_units;
  int n_tiles;
  int n_chunks;
  int warp_chunks;
};
__device__ inline TileRun tile_run(const DecodeProduct& p, const DecodeCut& cut) {
  const int block = static_cast<int>(blockIdx.x);
  const int n = block >= cut.n_blocks ? 0 : cut.block_units + (block < cut.n_larger ? 1 : 0);
  const int n_tiles = p.output == ProductOutput::kGated ? 2 * n : n;
  const int n_chunks = n_tiles * cut.tile_chunks;
  return {block * cut.block_units + min(block, cut.n_larger), n, n_tiles, n_chunks,
          (n_chunks + kDecodeWarps - 1) / kDecodeWarps};
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
    const int n_tiles = tiles_of(p.parts[part]);
    if (tile < n_tiles) return {part, tile};
    tile -= n_tiles;
  }
  return {p.n_parts - 1, tile};
}

/// The chunks that a warp has still to ask for of a product, in the order in which it multiplies
/// them.
class ChunkRequests {
 public:
  /// Those of warp `warp`.
  __device__ void start(const DecodeProduct& p, const DecodeCut& cut, int warp) {
    const TileRun run = tile_run(p, cut);
    const int first = min(warp * run.warp_chunks, run.n_chunks);
    n_left_ = min(run.warp_chunks, run.n_chunks - first);
    if (n_left_ <= 0) return;
    tile_ = divide(first, cut.per_tile_chunk);
    cell_ = (first - tile_ * cut.tile_chunks) * cut.chunk_cells;
    find_tile(p, run);
  }
  __device__ bool is_done() const { return n_left_ <= 0; }
  template <typename Ring>
  __device__ void request_next(const DecodeProduct& p, const DecodeCut& cut, Ring& ring) {
    const int n_cells = min(cut.chunk_cells, p.n_blocks - cell_);
    ring.request(cells_ + cell_ * p.cell_bytes, n_cells * p.cell_bytes);
    cell_ += cut.chunk_cells;
    if (--n_left_ > 0 && cell_ >= p.n_blocks) {
      ++tile_, cell_ = 0;
      find_tile(p, tile_run(p, cut));
    }
  }

 private:
  __device__ void find_tile(const DecodeProduct& p, const TileRun& run) {
    const TilePlace place = tile_place(p, run, tile_);
    cells_ =
        p.parts[place.part].cells + static_cast<int64_t>(place.tile) * p.n_blocks * p.cell_bytes;
  }

  int n_left_ = 0;
  int tile_ = 0;
  int cell_ = 0;
  const unsigned char* cells_ = nullptr;
};

/// A warp receives its chunks of a run and multiplies them. add(cells of a chunk, first block of
/// columns, number of cells); next(): the chunk's stage is free; finish(tile): the warp has no more
/// chunks of that tile of the run.
template <typename Ring, typename Add, typename Next, typename Finish>
__device__ void multiply_run(const TileRun& run, const DecodeCut& cut, int n_blocks, int warp,
                             Ring& ring, const Add& add, const Next& next, const Finish& finish) {
  const int first = min(warp * run.warp_chunks, run.n_chunks);
  const int n = min(run.warp_chunks, run.n_chunks - first);
  if (n <= 0) return;
  int tile = divide(first, cut.per_tile_chunk);
  int cell = (first - tile * cut.tile_chunks) * cut.chunk_cells;
  for (int i = 0; i < n; ++i) {
    const unsigned char* cells = ring.receive();
    add(cells, cell, min(cut.chunk_cells, n_blocks - cell));
    ring.release();
    next();
    cell += cut.chunk_cells;
    if (cell >= n_blocks || i + 1 == n) {
      finish(tile);
      ++tile, cell = 0;
    }
  }
}

/// The column of y of thread `threadIdx.x`'s row of a run, of one token; -1 when it has none.
__device__ inline int column_of_thread(const DecodeProduct& p, const TileRun& run) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= run.n_units * kTileRows) return -1;
  const TilePlace place = tile_place(p, run, p.output == ProductOutput::kGated ? i / 8 : i / 16);
  const int of_part = kTileRows * place.tile + i % kTileRows;
  return of_part < p.parts[place.part].rows ? p.parts[place.part].first_column + of_part : -1;
}

/// write(token, column of y, value) for the rows of a run. parts: [warps + tiles][tokens][16], warp
/// w's sums of tile i are at w + i.
template <typename Write>
__device__ void write_rows(const DecodeProduct& p, const TileRun& run, const DecodeCut& cut,
                           const float* parts, const Write& write) {
  const int n = run.n_units * p.n_tokens * kTileRows;
  const float per_warp_chunk = 1.0f / static_cast<float>(run.warp_chunks);
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32 * kDecodeWarps) {
    const int row = i % kTileRows, of_tile = i / kTileRows;
    const int unit = p.n_tokens == 1 ? of_tile : of_tile / p.n_tokens;
    const int token = of_tile - unit * p.n_tokens;
    const auto total = [&](int tile, const ProductPart& part, int of_part) {
      const int first = divide(tile * cut.tile_chunks, per_warp_chunk);
      const int last = divide((tile + 1) * cut.tile_chunks - 1, per_warp_chunk);
      float sum = part.bias != nullptr && of_part < part.rows ? part.bias[of_part] : 0.0f;
      for (int warp = first; warp <= last; ++warp) {
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
    float value = total(tile, part, of_part);
    if (gated) value = activation_of(p.curve, value) * total(tile + 1, p.parts[1], of_part);
    write(token, part.first_column + of_part, value);
  }
}

}  // namespace d2q::cuda
