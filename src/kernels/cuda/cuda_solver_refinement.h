// METHOD.md §8.3-§8.4 on the GPU.
#pragma once

#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// The column groups of the last refinement in device memory: a linear layer is refined many times
/// over with the same ones, and an upload waits for the GPU.
class CudaGroupTable {
 public:
  void update(CudaContext& context, const Refinement& refinement);
  /// [groups] GroupSpan.
  const void* spans() const noexcept { return spans_.get(); }
  /// [in] place of a column's group in spans().
  const int32_t* group_of_column() const { return group_of_column_.data<int32_t>(); }
  /// [in] place of a column's first parameter in a row of params.
  const int32_t* first_param() const { return first_param_.data<int32_t>(); }

 private:
  std::vector<int64_t> key_;
  std::shared_ptr<void> spans_;
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
