// What both attention kernels share: which rows and keys a block works on.
//
// The query heads that share a key head are stacked: row R of a sequence and key head is query
// R / group of query head R % group, so that one pass over the keys serves the whole group, and a
// single decoded token still fills several rows of a tile.
#pragma once

#include "kernels/cuda/cuda_attention_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

struct AttentionTile {
  int64_t sequence;
  int64_t kv_head;
  int64_t first_row;  // stacked
  int64_t n_rows;     // stacked rows of the sequence and key head, not of the tile
  int64_t group;
  int first_key;  // multiple of the tile of keys
  int last_key;   // one past the last key that any row sees
};

/// The query and head of a stacked row; rows past the end repeat the last one.
struct StackedRow {
  int64_t query_row;  // of q and y
  int64_t head;
  int position;  // keys 0 .. position are in its past
};

__device__ inline StackedRow stacked_row(const AttentionProblem& p, const AttentionTile& tile,
                                         int row) {
  const int64_t stacked = min(tile.first_row + row, tile.n_rows - 1);
  const int64_t query = stacked / tile.group;
  return {tile.sequence * p.sequence_length + query,
          tile.kv_head * tile.group + stacked % tile.group,
          static_cast<int>(p.past_length + query)};
}

/// The block's tile: last ones first, since they see the most keys.
__device__ inline AttentionTile attention_tile(const AttentionProblem& p, int rows, int keys) {
  AttentionTile tile;
  tile.group = p.n_heads / p.n_kv_heads;
  tile.n_rows = p.sequence_length * tile.group;
  const int64_t n_tiles = (tile.n_rows + rows - 1) / rows;
  const int64_t n_panels = p.n_sequences * p.n_kv_heads;
  const int64_t block = blockIdx.x;
  tile.first_row = (n_tiles - 1 - block / n_panels) * rows;
  tile.sequence = block % n_panels / p.n_kv_heads;
  tile.kv_head = block % n_panels % p.n_kv_heads;
  const int first = stacked_row(p, tile, 0).position;
  const int first_seen =
      p.window > 0 && first + 1 > p.window ? static_cast<int>(first + 1 - p.window) : 0;
  tile.first_key = first_seen / keys * keys;
  tile.last_key = stacked_row(p, tile, rows - 1).position + 1;
  return tile;
}

__device__ inline bool sees(const AttentionProblem& p, int position, int key) {
  return key <= position && (p.window == 0 || position - key < p.window);
}

inline int64_t attention_blocks(const AttentionProblem& p, int rows) {
  const int64_t n_rows = p.sequence_length * (p.n_heads / p.n_kv_heads);
  return (n_rows + rows - 1) / rows * p.n_sequences * p.n_kv_heads;
}

}  // namespace d2q::cuda
