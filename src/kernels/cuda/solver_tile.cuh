// A block of columns of a triangular matrix in shared memory, for the walk and the descent.
#pragma once

#include "kernels/cuda/solver_walk_kernels.h"

namespace d2q::cuda {

/// Every block copies a tile: no more of them than fill a large GPU.
constexpr int64_t kManyBlocks = 132;
constexpr size_t kTileBytes = sizeof(float) * kBlockColumns * kBlockColumns;

/// The part of a matrix right of its diagonal, [n_rows, n_columns] from `corner` on, zeros
/// elsewhere: columns that have had their turn then stay as they are.
__device__ inline void load_upper(const float* corner, int64_t stride, int n_rows, int n_columns,
                                  float* tile) {
  // Few threads load much, and all of them wait for it: many loads at a time.
  constexpr int kLoads = 16;
  const int n = n_rows * kBlockColumns, step = static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < n; first += kLoads * step) {
    float values[kLoads];
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      const int i = first + k * step;
      const int row = i / kBlockColumns, column = i % kBlockColumns;
      const bool inside = i < n && column > row && column < n_columns;
      values[k] = inside ? __ldg(corner + row * stride + column) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kLoads; ++k) {
      if (first + k * step < n) tile[first + k * step] = values[k];
    }
  }
}

}  // namespace d2q::cuda
