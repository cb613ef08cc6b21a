// What both backward attention kernels share. Two passes: a block of the first owns query rows and
// writes d_q and each row's log-sum; a block of the second owns keys and writes d_k and d_v. Each
// recomputes the probabilities that it needs, so that no sum is shared between blocks.
#pragma once

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/cuda_gradient_kernels.h"

namespace d2q::cuda {

/// Where log_sums and deltas hold a stacked row.
__device__ inline int64_t row_value_index(const AttentionProblem& p, const AttentionTile& tile,
                                          int64_t stacked) {
  return (tile.sequence * p.n_kv_heads + tile.kv_head) * tile.n_rows + stacked;
}

/// The block's keys are [tile.first_key, tile.last_key); the rows that see any of them lie in
/// [tile.first_row, end_row).
struct KeyTile {
  AttentionTile tile;
  int64_t end_row;
};

/// First keys first: without a window they are seen by the most queries.
__device__ inline KeyTile key_tile(const AttentionProblem& p, int keys, int rows) {
  KeyTile result;
  AttentionTile& tile = result.tile;
  tile.group = p.n_heads / p.n_kv_heads;
  tile.n_rows = p.sequence_length * tile.group;
  const int64_t n_panels = p.n_sequences * p.n_kv_heads;
  const int64_t block = blockIdx.x;
  tile.sequence = block % n_panels / p.n_kv_heads;
  tile.kv_head = block % n_panels % p.n_kv_heads;
  tile.first_key = static_cast<int>(block / n_panels) * keys;
  tile.last_key =
      static_cast<int>(min(p.sequence_length, static_cast<int64_t>(tile.first_key + keys)));
  tile.first_row = tile.first_key * tile.group / rows * rows;
  const int64_t end_query =
      p.window > 0 ? min(p.sequence_length, tile.last_key - 1 + p.window) : p.sequence_length;
  result.end_row = end_query * tile.group;
  return result;
}

inline int64_t key_blocks(const AttentionProblem& p, int keys) {
  return (p.sequence_length + keys - 1) / keys * p.n_sequences * p.n_kv_heads;
}

/// What a tile of query rows brings to the second pass.
template <int kRows>
struct RowValues {
  float log_sums[kRows];
  float deltas[kRows];
  int positions[kRows];  // -1 past the last row: such a row sees no key
};

template <int kRows>
__device__ void load_row_values(const AttentionGradient& g, const AttentionTile& tile,
                                RowValues<kRows>& values) {
  const int row = static_cast<int>(threadIdx.x);
  if (row >= kRows) return;
  const int64_t stacked = tile.first_row + row;
  const bool exists = stacked < tile.n_rows;
  const int64_t i = row_value_index(g.forward, tile, exists ? stacked : tile.n_rows - 1);
  values.log_sums[row] = g.log_sums[i];
  values.deltas[row] = g.deltas[i];
  values.positions[row] = exists ? static_cast<int>(stacked / tile.group) : -1;
}

}  // namespace d2q::cuda
