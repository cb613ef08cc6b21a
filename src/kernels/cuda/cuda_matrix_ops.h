// MatrixOps on an NVIDIA GPU: f64 by cuSOLVER and cuBLAS for what is factorised, f32 products split
// over tensor cores for what is only multiplied. Nothing leaves the GPU but diagonals and sums.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/cuda_context.h"
#include "kernels/matrix_ops.h"

namespace d2q {

std::unique_ptr<MatrixOps> make_cuda_matrix_ops(std::shared_ptr<CudaContext> context);

/// run_gemm() of f32 matrices on tensor cores: each operand is the sum of two TF32 values, and
/// three of their four products are taken, which leaves a relative error of about 2^-21 of Σ|a||b|
/// against f32's 2^-24 at some three times its speed. Small products run in plain f32.
void run_split_gemm(CudaContext& context, const CudaGemm& gemm);

/// Σ (a − b)·g over all elements, b empty for 0; one shape, f32, sums in f64 in a fixed order.
class CudaDot {
 public:
  explicit CudaDot(CudaContext& context) : context_(context) {}
  /// Starts the sum on the GPU.
  void add(const Tensor& a, const Tensor& b, const Tensor& g);
  /// Waits and returns all that was added.
  double total();

 private:
  CudaContext& context_;
  std::vector<Tensor> partials_;
};

}  // namespace d2q
