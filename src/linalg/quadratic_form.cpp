#include "linalg/quadratic_form.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/gemm.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 64;

}  // namespace

double quadratic_form(const Matrix<float>& left, const Matrix<float>& m, const Matrix<float>& right,
                      ThreadPool& pool) {
  const int64_t rows = left.rows();
  const int64_t n = m.rows();
  D2Q_CHECK(m.cols() == n && left.cols() == n && right.cols() == n && right.rows() == rows,
            "{}x{} in {}", rows, left.cols(), n);
  const int64_t n_tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<double> sums(static_cast<size_t>(n_tasks), 0.0);
  pool.parallel_for(n_tasks, [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const int64_t count = std::min(kRowsPerTask, rows - begin);
    Matrix<float> product(count, n);
    gemm_f32(false, false, count, n, n, right.row(begin), n, m.data(), n, 0.0f, product.data(), n);
    double sum = 0.0;
    for (int64_t i = 0; i < count * n; ++i) {
      sum += static_cast<double>(left.row(begin)[i]) * static_cast<double>(product.data()[i]);
    }
    sums[static_cast<size_t>(task)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace d2q
