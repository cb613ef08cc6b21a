#include "kernels/cuda/cuda_solver.h"

#include <utility>

#include "kernels/cuda/cuda_solver_refinement.h"
#include "kernels/cuda/cuda_solver_walk.h"

namespace d2q {
namespace {

class CudaSolver final : public SolverOps {
 public:
  explicit CudaSolver(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  void column_walk(const ColumnWalk& walk) override { column_walk_cuda(*context_, walk); }
  std::optional<double> refit_scales(const Refinement& refinement) override {
    return refit_scales_cuda(*context_, table_, refinement);
  }
  std::optional<double> refine_codes(const Refinement& refinement) override {
    return refine_codes_cuda(*context_, table_, refinement);
  }
  std::optional<double> refit_column_scale(const Refinement& refinement) override {
    return refit_column_scale_cuda(*context_, table_, refinement);
  }
  double objective(const Refinement& refinement) override {
    return refinement_objective_cuda(*context_, refinement);
  }

 private:
  std::shared_ptr<CudaContext> context_;
  CudaGroupTable table_;
};

}  // namespace

std::unique_ptr<SolverOps> make_cuda_solver(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaSolver>(std::move(context));
}

}  // namespace d2q
