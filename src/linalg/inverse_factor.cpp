#include "linalg/inverse_factor.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

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

}  // namespace

std::optional<Matrix<double>> inverse_factor(const Matrix<double>& hessian, double damping) {
  use_one_blas_thread();
  const int64_t n = hessian.rows();
  D2Q_CHECK(n == hessian.cols() && n > 0, "{}x{}", n, hessian.cols());
  double mean_diagonal = 0.0;
  for (int64_t i = 0; i < n; ++i) mean_diagonal += hessian(i, i);
  mean_diagonal /= static_cast<double>(n);

  Matrix<double> reversed(n, n);
  for (int64_t i = 0; i < n; ++i) {
    const double* source = hessian.row(n - 1 - i);
    double* row = reversed.row(i);
    for (int64_t j = 0; j <= i; ++j) row[j] = source[n - 1 - j];
    row[i] += damping * mean_diagonal;
  }
  // Row-major lower is column-major upper: the LAPACKE wrapper would transpose a copy, so say 'U'
  // in column-major directly.
  const auto order = static_cast<lapack_int>(n);
  if (LAPACKE_dpotrf(LAPACK_COL_MAJOR, 'U', order, reversed.data(), order) != 0)
    return std::nullopt;
  if (LAPACKE_dtrtri(LAPACK_COL_MAJOR, 'U', 'N', order, reversed.data(), order) != 0)
    return std::nullopt;

  Matrix<double> factor(n, n, true);
  for (int64_t i = 0; i < n; ++i) {
    const double* row = reversed.row(i);
    for (int64_t j = 0; j <= i; ++j) {
      if (!std::isfinite(row[j])) return std::nullopt;
      factor(n - 1 - i, n - 1 - j) = row[j];
    }
  }
  return factor;
}

Matrix<double> asymmetry_matrix(const Matrix<double>& cross_deviation, const Matrix<double>& factor,
                                double alpha, ThreadPool& pool) {
  use_one_blas_thread();
  const int64_t n = factor.rows();
  D2Q_CHECK(cross_deviation.rows() == n && cross_deviation.cols() == n, "{}x{} against {}",
            cross_deviation.rows(), cross_deviation.cols(), n);
  Matrix<double> result(n, n, true);
  pool.parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const int64_t rows = std::min(kRowsPerTask, n - begin);
    // Row i of triu(D Uᵀ, 1) has columns > i only, so both products run on the columns from
    // `begin`.
    const int64_t width = n - begin;
    Matrix<double> left(rows, width);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows),
                static_cast<int>(width), static_cast<int>(width), alpha,
                cross_deviation.row(begin) + begin, static_cast<int>(n), factor.row(begin) + begin,
                static_cast<int>(n), 0.0, left.data(), static_cast<int>(width));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j <= std::min(i, width - 1); ++j) left(i, j) = 0.0;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(rows),
                static_cast<int>(width), static_cast<int>(width), 1.0, left.data(),
                static_cast<int>(width), factor.row(begin) + begin, static_cast<int>(n), 0.0,
                result.row(begin) + begin, static_cast<int>(n));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j <= begin + i; ++j) result(begin + i, j) = 0.0;
    }
  });
  return result;
}

Matrix<double> asymmetric_target_map(const Matrix<double>& cross_deviation,
                                     const Matrix<double>& factor, double alpha, ThreadPool& pool) {
  use_one_blas_thread();
  const int64_t n = factor.rows();
  D2Q_CHECK(cross_deviation.rows() == n && cross_deviation.cols() == n, "{}x{} against {}",
            cross_deviation.rows(), cross_deviation.cols(), n);
  Matrix<double> result(n, n);
  const auto width = static_cast<int>(n);
  pool.parallel_for((n + kRowsPerTask - 1) / kRowsPerTask, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const auto rows = static_cast<int>(std::min(kRowsPerTask, n - begin));
    Matrix<double> left(rows, n);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, width, width, alpha,
                cross_deviation.row(begin), width, factor.data(), width, 0.0, left.data(), width);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, width, 1.0, left.data(),
                width, factor.data(), width, 0.0, result.row(begin), width);
  });
  return result;
}

}  // namespace d2q
