#include "kernels/cpu/column_scale_refit.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "kernels/column_scale_solve.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lane_grid.h"

namespace d2q {
namespace {

constexpr int64_t kTaskRows = 64;
constexpr int64_t kTaskColumns = 64;

/// V [rows, in].
Matrix<float> levels_of(const Refinement& r, ThreadPool& pool) {
  const int64_t rows = r.weight.rows();
  const int64_t n = r.weight.cols();
  Matrix<float> levels(rows, n);
  pool.parallel_for((rows + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
    for (int64_t i = task * kTaskRows; i < std::min(rows, (task + 1) * kTaskRows); ++i) {
      const uint8_t* codes = r.codes.data<uint8_t>() + i * n;
      for (const ColumnGroup& group : r.groups) {
        const float* params =
            r.params.data<float>() + i * r.params.cols() + group.index * r.grid.n_params();
        for (int64_t j = group.begin; j < group.begin + group.size; ++j)
          levels(i, j) = sign_plane_level(params, r.grid.bits, codes[j]);
      }
    }
  });
  return levels;
}

}  // namespace

void refit_column_scale_cpu(const Refinement& r, ThreadPool& pool) {
  D2Q_CHECK(r.grid.kind == GridKind::kSignPlanes, "column scale on a uniform grid");
  const int64_t n = r.weight.cols();
  const Matrix<float> levels = levels_of(r, pool);
  Matrix<float> matrix(n, n);
  ColumnScaleQuadratic quadratic;
  quadratic.diagonal.resize(static_cast<size_t>(n));
  quadratic.right.assign(static_cast<size_t>(n), 0.0);
  const auto for_columns = [&](auto&& body) {
    pool.parallel_for((n + kTaskColumns - 1) / kTaskColumns, [&](int64_t task, int) {
      body(task * kTaskColumns, std::min(kTaskColumns, n - task * kTaskColumns));
    });
  };
  for_columns([&](int64_t begin, int64_t count) {
    gemm_f32(true, false, count, n, levels.rows(), levels.data() + begin, n, levels.data(), n, 0.0f,
             matrix.row(begin), n);
    const float* hessian = r.hessian.data<float>() + begin * n;
    for (int64_t k = 0; k < count * n; ++k) matrix.row(begin)[k] *= hessian[k];
    const float* product = r.target_product.data<float>();
    for (int64_t j = begin; j < begin + count; ++j) {
      quadratic.diagonal[static_cast<size_t>(j)] = static_cast<double>(matrix(j, j));
      for (int64_t i = 0; i < levels.rows(); ++i) {
        quadratic.right[static_cast<size_t>(j)] +=
            static_cast<double>(levels(i, j)) * static_cast<double>(product[i * n + j]);
      }
    }
  });
  quadratic.times = [&](const std::vector<double>& x) {
    std::vector<double> result(x.size());
    for_columns([&](int64_t begin, int64_t count) {
      for (int64_t i = begin; i < begin + count; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j < n; ++j)
          sum += static_cast<double>(matrix(i, j)) * x[static_cast<size_t>(j)];
        result[static_cast<size_t>(i)] = sum;
      }
    });
    return result;
  };
  float* scale = r.column_scale.data<float>();
  const ColumnScaleSolution solution =
      solve_column_scale(quadratic, {scale, static_cast<size_t>(n)});
  if (solution.scale.empty()) return;
  std::copy(solution.scale.begin(), solution.scale.end(), scale);
  pool.parallel_for((r.weight.rows() + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
    const int64_t end = std::min(r.weight.rows(), (task + 1) * kTaskRows);
    for (int64_t i = task * kTaskRows; i < end; ++i) {
      float* weight = r.weight.data<float>() + i * n;
      for (int64_t j = 0; j < n; ++j) weight[j] = scale[j] * levels(i, j);
    }
  });
}

}  // namespace d2q
