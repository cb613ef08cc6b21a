// A positive definite matrix H as right operand in f16: scaled to a diagonal of ones, whose
// elements all are as large as f16 holds well. Its products lose 2^-11 of each term at most, at
// random, an eighth of what bf16 would.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/cuda_context.h"

namespace d2q {

class ScaledHessian {
 public:
  /// hessian [n, n] f32, symmetric.
  ScaledHessian(CudaContext& context, const Tensor& hessian);

  /// [1, n] f32 d: the roots of the diagonal.
  const Tensor& roots() const { return roots_; }

  /// x ⊙ d times a power of two for each row.
  struct Rows {
    Tensor values;  // [rows, n] f16
    Tensor scales;  // [1, rows] f32
  };
  /// Of x = a − b, [rows, n] f32.
  Rows difference(const Tensor& a, const Tensor& b) const;

  /// Rows [row, row + left.cols()) of H / (d dᵀ), from `column` on: c = left·those + beta·c. `left`
  /// [m, depth] f16 with `left_stride` elements from row to row, c f32 with `c_stride`.
  struct Product {
    const __half* left = nullptr;
    int64_t left_stride = 0;
    int64_t m = 0;
    int64_t row = 0;
    int64_t depth = 0;
    int64_t column = 0;
    int64_t columns = 0;
    float* c = nullptr;
    int64_t c_stride = 0;
    double beta = 0.0;
  };
  void multiply(const Product& product) const;

 private:
  CudaContext& context_;
  Tensor roots_;
  Tensor scaled_;  // [n, n] f16
};

}  // namespace d2q
