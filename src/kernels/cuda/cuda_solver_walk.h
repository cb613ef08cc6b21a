// METHOD.md §4 and §5 on the GPU: fits and walks block after block of columns.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/solver_walk_kernels.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// Columns [begin, end). A group lies in one block unless it is longer than a block.
struct WalkBlock {
  int64_t begin = 0;
  int64_t end = 0;
};
std::vector<WalkBlock> cut_walk_blocks(std::span<const ColumnGroup> groups);

/// What the kernels need to know of a grid.
cuda::GridLevels grid_levels(const Grid& grid);

void column_walk_cuda(CudaContext& context, const ColumnWalk& walk);

}  // namespace d2q
