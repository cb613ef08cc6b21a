// How products of packed weights with one or a few tokens are cut: a block of threads has a run of
// row tiles; its warps have equal runs of their cells, so that a tile's sums come from several
// warps. Cells are copied in chunks of a few, which end with the tile.
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
  return {.n_blocks = n_blocks,
          .block_units = n_units / n_blocks,
          .n_larger = n_units % n_blocks,
          .chunk_cells = chunk_cells(p.cell_bytes),
          .per_tile_cell = 1.0f / static_cast<float>(p.n_blocks)};
}

/// Row tiles that a block of threads has at most.
inline int most_tiles(const DecodeProduct& p, const DecodeCut& cut) {
  const int n_units = cut.block_units + (cut.n_larger > 0 ? 1 : 0);
  return p.output == ProductOutput::kGated ? 2 * n_units : n_units;
}

/// The row tiles of a block of threads: `n_tiles` from the unit `first_unit` on. Of their cells
/// each warp has `warp_cells`, the last ones fewer or none.
struct TileRun {
  int first_unit;
  int n_units;
  int n_tiles;
  int n_cells;
  int warp_cells;
};
__device__ inline TileRun tile_run(const DecodeProduct& p, const DecodeCut& cut) {
  const int block = static_cast<int>(blockIdx.x);
  const int n = block >= cut.n_blocks ? 0 : cut.block_units + (block < cut.n_larger ? 1 : 0);
  const int n_tiles = p.output == ProductOutput::kGated ? 2 * n : n;
  const int n_cells = n_tiles * p.n_blocks;
  return {block * cut.block_units + min(block, cut.n_larger), n, n_tiles, n_cells,
          (n_cells + kDecodeWarps - 1) / kDecodeWarps};
}

/// What a warp has of a run: `n_left` cells, from cell `cell` of tile `tile` on.
struct WarpRun {
  int n_left = 0;
  int tile = 0;
  int cell = 0;

  WarpRun() = default;
  __device__ WarpRun(const DecodeProduct& p, const DecodeCut& cut, const TileRun& run, int warp) {
    const int first = min(warp * run.warp_cells, run.n_cells);
    n_left = min(run.warp_cells, run.n_cells - first);
    tile = divide(first, cut.per_tile_cell);
    cell = first - tile * p.n_blocks;
  }
  /// Cells of the next chunk.
  __device__ int chunk(const DecodeCut& cut, int n_blocks) const {
    return min(min(cut.chunk_cells, n_left), n_blocks - cell);
  }
  /// Past a chunk of n cells; whether that was the warp's last one of the tile.
  __device__ bool pass(int n, int n_blocks) {
    n_left -= n, cell += n;
    const bool ends = cell == n_blocks || n_left == 0;
    if (ends) ++tile, cell = 0;
    return ends;
  }
};

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
    left_ = WarpRun(p, cut, run, warp);
    if (!is_done()) find_tile(p, run);
  }
  __device__ bool is_done() const { return left_.n_left <= 0; }
  /// Where the next one is and how long.
  __device__ void next(const DecodeProduct& p, const DecodeCut& cut, const unsigned char*& from,
                       int& bytes) {
    const int n = left_.chunk(cut, p.n_blocks);
    from = cells_ + left_.cell * p.cell_bytes;
    bytes = n * p.cell_bytes;
    if (left_.pass(n, p.n_blocks) && !is_done()) find_tile(p, tile_run(p, cut));
  }

 private:
  __device__ void find_tile(const DecodeProduct& p, const TileRun& run) {
    const TilePlace place = tile_place(p, run, left_.tile);
    cells_ =
        p.parts[place.part].cells + static_cast<int64_t>(place.tile) * p.n_blocks * p.cell_bytes;
  }

  WarpRun left_;
  const unsigned char* cells_ = nullptr;
};

/// A warp receives its chunks of a run and multiplies them. add(cells of a chunk, first block of
/// columns, number of cells); next(): the chunk's stage is free; finish(tile): the warp has no more
/// chunks of that tile of the run.
template <typename Ring, typename Add, typename Next, typename Finish>
__device__ void multiply_run(WarpRun left, const DecodeCut& cut, int n_blocks, int lane, Ring& ring,
                             const Add& add, const Next& next, const Finish& finish) {
  while (left.n_left > 0) {
    const int tile = left.tile, n = left.chunk(cut, n_blocks);
    const unsigned char* cells = ring.receive();
    add(cells, left.cell, n);
    ring.release(lane);
    next();
    if (left.pass(n, n_blocks)) finish(tile);
  }
}

/// What a row of a run becomes of: sums of several warps, one after the other, in
/// parts [warps + tiles][tokens][16], where warp w's sums of tile i are at w + i.
struct RowPlace {
  struct Sums {
    int first = 0;
    int n_warps = 0;
    float bias = 0.0f;
  };
  int column = -1;  // of y; -1: there is no such row
  int token = 0;
  Sums sums[2];  // the second one of a gated product's other matrix
};
/// Of row `i`: [units][tokens][16].
__device__ inline RowPlace row_place(const DecodeProduct& p, const TileRun& run,
                                     const DecodeCut& cut, int i) {
  RowPlace place;
  if (i >= run.n_units * p.n_tokens * kTileRows) return place;
  const int row = i % kTileRows, of_tile = i / kTileRows;
  const int unit = p.n_tokens == 1 ? of_tile : of_tile / p.n_tokens;
  place.token = of_tile - unit * p.n_tokens;
  const bool gated = p.output == ProductOutput::kGated;
  const int tile = gated ? 2 * unit : unit;
  const TilePlace of_tile_place = tile_place(p, run, tile);
  const int of_part = kTileRows * of_tile_place.tile + row;
  if (of_part >= p.parts[of_tile_place.part].rows) return place;
  place.column = p.parts[of_tile_place.part].first_column + of_part;
  const float per_warp_cell = __fdividef(1.0f, static_cast<float>(run.warp_cells));
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (k == 1 && !gated) break;
    RowPlace::Sums& sums = place.sums[k];
    const int first = divide((tile + k) * p.n_blocks, per_warp_cell);
    const int last = divide((tile + k + 1) * p.n_blocks - 1, per_warp_cell);
    sums.first = ((first + tile + k) * p.n_tokens + place.token) * kTileRows + row;
    sums.n_warps = last - first + 1;
    const float* bias = p.parts[of_tile_place.part + k].bias;
    if (bias != nullptr) sums.bias = bias[of_part];
  }
  return place;
}

/// write(place, value) for the rows of a run; `place` is that of row `thread`.
template <typename Write>
__device__ void write_rows(const DecodeProduct& p, const TileRun& run, const DecodeCut& cut,
                           const float* parts, int thread, RowPlace place, const Write& write) {
  const int n = run.n_units * p.n_tokens * kTileRows;
  for (int i = thread; i < n;) {
    if (place.column >= 0) {
      const auto total = [&](const RowPlace::Sums& sums) {
        float sum = sums.bias;
        for (int k = 0; k < sums.n_warps; ++k) {
          sum += parts[sums.first + k * p.n_tokens * kTileRows];
        }
        return sum;
      };
      float value = total(place.sums[0]);
      if (p.output == ProductOutput::kGated) {
        value = activation_of(p.curve, value) * total(place.sums[1]);
      }
      write(place, value);
    }
    i += 32 * kDecodeWarps;
    if (i < n) place = row_place(p, run, cut, i);
  }
}

}  // namespace d2q::cuda
