// METHOD.md §8.3-§8.4 on the GPU.
#pragma once

#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/solver_refit_kernels.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// The column groups of the last refinement in device memory: a linear layer is refined many times
/// over with the same ones, and an upload waits for the GPU.
class CudaGroupTable {
 public:
  void update(CudaContext& context, const Refinement& refinement);
  /// Fills in the columns' groups and chunks.
  void describe(cuda::RefitBatch& batch) const;
  /// Of RefitBatch::tiles.
  int64_t tile_bytes() const;
  /// [in] place of a column's first parameter in a row of params.
  const int32_t* first_param() const { return first_param_.data<int32_t>(); }

 private:
  std::vector<int64_t> key_;
  std::shared_ptr<void> spans_;   // [groups] GroupSpan
  std::shared_ptr<void> chunks_;  // [n_chunks_] ColumnChunk
  int n_chunks_ = 0;
  int64_t chunk_width_ = 0;
  int64_t n_tiles_ = 0;
  bool aligned_ = false;
  Tensor group_of_column_;
  Tensor first_param_;
};

/// The first three return the change of J.
double refit_scales_cuda(CudaContext& context, CudaGroupTable& table, const Refinement& refinement);
double refine_codes_cuda(CudaContext& context, CudaGroupTable& table, const Refinement& refinement);
double refit_column_scale_cuda(CudaContext& context, CudaGroupTable& table,
                               const Refinement& refinement);
double refinement_objective_cuda(CudaContext& context, const Refinement& refinement);

}  // namespace d2q
