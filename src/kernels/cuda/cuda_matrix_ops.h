// MatrixOps on an NVIDIA GPU: f64 by cuSOLVER and cuBLAS for what is factorised, f32 products split
// into bf16 ones for what is only multiplied. Nothing leaves the GPU but diagonals and sums.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/solver_walk_kernels.h"
#include "kernels/matrix_ops.h"

namespace d2q {

std::unique_ptr<MatrixOps> make_cuda_matrix_ops(std::shared_ptr<CudaContext> context);

/// Σ (a − b)·g over all elements, b empty for 0; one shape, f32, sums in f64 in a fixed order.
class CudaDot {
 public:
  explicit CudaDot(CudaContext& context) : context_(context) {}
  /// Starts the sum on the GPU.
  void add(const Tensor& a, const Tensor& b, const Tensor& g) {
    add(a, b, g, cuda::DotOperand::kDifference);
  }
  /// Starts x·Hx of x = a − b, H symmetric, from g = x̂·H with x̂ of rounded_pairs(): (2x − x̂)·g
  /// lacks no more than (x − x̂)·H(x − x̂), which is of second order, 2^-18 of the Σ H_jj x_j² that
  /// x·Hx would be if the inputs were independent.
  void add_quadratic(const Tensor& a, const Tensor& b, const Tensor& g) {
    add(a, b, g, cuda::DotOperand::kReflected);
  }
  /// Waits and returns all that was added.
  double total();

 private:
  void add(const Tensor& a, const Tensor& b, const Tensor& g, cuda::DotOperand operand);

  CudaContext& context_;
  std::vector<Tensor> partials_;
};

}  // namespace d2q
