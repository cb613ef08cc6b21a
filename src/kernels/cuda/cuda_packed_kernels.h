// Launchers of the products with packed weights. Read by nvcc too: CUDA's headers only.
#pragma once

#include "kernels/cuda/cuda_forward_kernels.h"

namespace d2q::cuda {

/// Columns of a cell, the piece of bit planes that decoding reads; packed_format.cuh draws it.
constexpr int kCellColumns = 128;

/// A packed matrix in the GPU's memory: the bytes of codec/packed_matrix.h, or cells of bit planes
/// with the scales in them, and the sizes that follow from its layout.
struct PackedWeights {
  const unsigned char* codes = nullptr;    // on 16 bytes
  const unsigned short* scales = nullptr;  // null with cells
  bool sign_planes = false;
  int bits = 2;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t n_groups = 0;
  int64_t group_steps = 0;
  int64_t tile_steps = 0;  // of 16 rows
  int64_t tile_cells = 0;
  int cell_bytes = 0;  // 0: the file's layout
};

/// Whether the groups are such that the matrix can be held in cells.
bool has_cells(const PackedWeights& weights);
/// Bytes of a cell of the matrix, a multiple of 16; ceil(rows / 16) * tile_cells of them hold it.
int cell_bytes(const PackedWeights& weights);
/// Rearranges weights in the file's layout.
cudaError_t launch_to_cells(const PackedWeights& weights, unsigned char* cells,
                            cudaStream_t stream);

/// The most tokens of launch_packed_product: more run faster as expanded panels.
constexpr int64_t kMaxPackedTokens = 8;

/// y[T, rows] = x[T, cols] wᵀ + bias, T <= kMaxPackedTokens, on the codes; f32 products. bias may
/// be null.
cudaError_t launch_packed_product(const PackedWeights& weights, const float* x, int64_t n_tokens,
                                  const float* bias, float* y, cudaStream_t stream);
/// Row tiles [first_tile, first_tile + n_tiles) as weights [16 * n_tiles, cols]: the bits of
/// dequantize(), or the same rounded to bf16. Rows past the last one are zero weights' values.
cudaError_t launch_expand(const PackedWeights& weights, int64_t first_tile, int64_t n_tiles,
                          const Values& out, cudaStream_t stream);

}  // namespace d2q::cuda
