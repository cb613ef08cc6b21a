// The f64 matrices of METHOD.md §4 and §8.1.
#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/matrix.h"
#include "kernels/cpu/matrix_ops.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 128;

/// The pool cuts the work; a BLAS that also started threads would make results depend on their
/// number.
void use_one_blas_thread() {
  static const bool done = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

/// body(first row, rows) in parallel over blocks of rows.
template <typename Body>
void for_row_blocks(ThreadPool& pool, int64_t n, Body&& body) {
  use_one_blas_thread();
  pool.parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    body(begin, std::min(kRowsPerTask, n - begin));
  });
}

}  // namespace

bool inverse_factor_cpu(const Tensor& hessian, double damping, const Tensor& factor) {
  use_one_blas_thread();
  const int64_t n = hessian.rows();
  const double* source = hessian.data<double>();
  double mean_diagonal = 0.0;
  for (int64_t i = 0; i < n; ++i) mean_diagonal += source[i * n + i];
  mean_diagonal /= static_cast<double>(n);

  Matrix<double> reversed(n, n);
  for (int64_t i = 0; i < n; ++i) {
    const double* source_row = source + (n - 1 - i) * n;
    double* row = reversed.row(i);
    for (int64_t j = 0; j <= i; ++j) row[j] = source_row[n - 1 - j];
    row[i] += damping * mean_diagonal;
  }
  // Row-major lower is column-major upper: the LAPACKE wrapper would transpose a copy, so say 'U'
  // in column-major directly.
  const auto order = static_cast<lapack_int>(n);
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', order, reversed.data(), order) != 0) return false;
  if (LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', order, reversed.data(), order) != 0) return false;

  double* result = factor.data<double>();
  std::fill(result, result + n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    const double* row = reversed.row(i);
    for (int64_t j = 0; j <= i; ++j) {
      if (!std::isfinite(row[j])) return false;
      result[(n - 1 - i) * n + n - 1 - j] = row[j];
    }
  }
  return true;
}

void asymmetry_matrix_cpu(ThreadPool& pool, const Tensor& deviation, const Tensor& factor,
                          double alpha, const Tensor& result) {
  const int64_t n = factor.rows();
  const double* d = deviation.data<double>();
  const double* u = factor.data<double>();
  float* target = result.data<float>();
  for_row_blocks(pool, n, [&](int64_t begin, int64_t rows) {
    // Row i of triu(D Uᵀ, 1) has columns > i only, so both products run on the columns from
    // `begin`.
    const int64_t width = n - begin;
    const int64_t corner = begin * n + begin;
    Matrix<double> left(rows, width);
    Matrix<double> product(rows, width);
    const auto multiply = [&](CBLAS_TRANSPOSE transpose, double factor_of_product, const double* a,
                              int64_t lda, double* c) {
      cblas_dgemm(CblasRowMajor, CblasNoTrans, transpose, static_cast<int>(rows),
                  static_cast<int>(width), static_cast<int>(width), factor_of_product, a,
                  static_cast<int>(lda), u + corner, static_cast<int>(n), 0.0, c,
                  static_cast<int>(width));
    };
    multiply(CblasTrans, alpha, d + corner, n, left.data());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j <= std::min(i, width - 1); ++j) left(i, j) = 0.0;
    }
    multiply(CblasNoTrans, 1.0, left.data(), width, product.data());
    for (int64_t i = 0; i < rows; ++i) {
      float* row = target + (begin + i) * n;
      std::fill(row, row + begin + i + 1, 0.0f);
      for (int64_t j = i + 1; j < width; ++j) row[begin + j] = static_cast<float>(product(i, j));
    }
  });
}

void target_map_cpu(ThreadPool& pool, const Tensor& deviation, const Tensor& factor, double alpha,
                    const Tensor& map) {
  const int64_t n = factor.rows();
  const double* u = factor.data<double>();
  float* target = map.data<float>();
  const auto width = static_cast<int>(n);
  for_row_blocks(pool, n, [&](int64_t begin, int64_t count) {
    const auto rows = static_cast<int>(count);
    Matrix<double> left(count, n);
    Matrix<double> product(count, n);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, width, width, alpha,
                deviation.data<double>() + begin * n, width, u, width, 0.0, left.data(), width);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, width, 1.0, left.data(),
                width, u, width, 0.0, product.data(), width);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = 0; i < count; ++i)
        target[j * n + begin + i] = static_cast<float>(product(i, j));
    }
  });
}

}  // namespace d2q
