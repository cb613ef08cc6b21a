// Products with scaled Hessians against sums in f64.
#include <cmath>

#include "kernels/cuda/cuda_scaled_hessian.h"
#include "kernels/cuda/cuda_test_support.h"

namespace d2q {
namespace {

using CudaScaledHessian = test::CudaTest;

TEST_F(CudaScaledHessian, MultipliesInF16WhateverItsRange) {
  const auto context = CudaContext::create();
  const int64_t rows = 37, n = 301, row = 16, column = 40;
  const Tensor hessian = gram(n), a = random(rows, n, DType::kF32),
               b = random(rows, n, DType::kF32);
  // Inputs and weights far outside the range of f16, and a row that is right already.
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const double scale = std::ldexp(1.0, static_cast<int>(i % 7 + j % 7) * 3 + 20);
      hessian.data<float>()[i * n + j] *= static_cast<float>(scale);
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    a.data<float>()[j] = b.data<float>()[j];
    a.data<float>()[n + j] *= 0x1p-30f;
    b.data<float>()[n + j] *= 0x1p-30f;
  }
  const auto there = [&](const Tensor& x) {
    const Tensor result = context->allocate(x.rows(), x.cols(), x.dtype());
    context->upload(x.raw(), result.raw(), x.n_bytes());
    return result;
  };
  const auto here = [&](const Tensor& x) {
    std::vector<float> values(static_cast<size_t>(x.size()));
    context->download(x.raw(), values.data(), x.n_bytes());
    return values;
  };
  const ScaledHessian scaled(*context, there(hessian));
  const ScaledHessian::Rows x = scaled.difference(there(a), there(b));
  const Tensor product = context->allocate(rows, n, DType::kF32);
  check_cuda(
      cudaMemsetAsync(product.raw(), 0, static_cast<size_t>(product.n_bytes()), context->stream()),
      "filling");
  // A part of the rows and columns, twice.
  for (int i = 0; i < 2; ++i) {
    scaled.multiply({.left = static_cast<const __half*>(x.values.raw()) + row,
                     .left_stride = n,
                     .m = rows,
                     .row = row,
                     .depth = n - row,
                     .column = column,
                     .columns = n - column,
                     .c = product.data<float>() + column,
                     .c_stride = n,
                     .beta = 1.0});
  }
  const std::vector<float> values = here(product), scales = here(x.scales),
                           roots = here(scaled.roots());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0, size = 0.0;
      for (int64_t k = row; k < n && j >= column; ++k) {
        const double term = 2.0 * (test::at(a, i, k) - test::at(b, i, k)) * test::at(hessian, k, j);
        sum += term;
        size += std::abs(term);
      }
      const double found = static_cast<double>(values[static_cast<size_t>(i * n + j)]) *
                           static_cast<double>(roots[static_cast<size_t>(j)]) /
                           static_cast<double>(scales[static_cast<size_t>(i)]);
      // Two roundings of 2^-11, and sums in f32.
      EXPECT_NEAR(found, sum, 0x1.1p-10 * size) << i << " " << j;
    }
  }
}

}  // namespace
}  // namespace d2q
