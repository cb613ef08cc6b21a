// Products of f32 matrices on tensor cores: an f32 value is the sum of two bf16 ones but for 2^-18
// of it, and products of bf16 values are exact in f32.
#pragma once

#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/split_kernels.h"

namespace d2q {

/// run_gemm() of f32 matrices, each operand the sum of two bf16 values: three of their four
/// products are taken, which leaves an error of at most 2^-16 of Σ|a||b|. Small products run in
/// plain f32.
void run_split_gemm(CudaContext& context, const CudaGemm& gemm);

/// x's copies of launch_stack_rows().
Tensor stacked_rows(CudaContext& context, const Tensor& x, cuda::SplitSide side);

/// a − b (b empty: a), f32 of one shape, rounded to bf16: the left operand of SplitMatrix, which
/// wants every element twice. [rows, 2·cols] bf16.
Tensor rounded_pairs(CudaContext& context, const Tensor& a, const Tensor& b);

/// A matrix [k, n] f32 that is the right operand of many products whose left operand is rounded to
/// bf16, split once.
class SplitMatrix {
 public:
  SplitMatrix(CudaContext& context, const Tensor& matrix);

  /// c [m, n] = pairs·matrix, pairs of rounded_pairs().
  void multiply(const Tensor& pairs, const Tensor& c) const;

 private:
  CudaContext& context_;
  Tensor pieces_;  // [2·k, n] bf16
};

}  // namespace d2q
