#include "kernels/cpu/refinement.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "base/matrix.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lane_grid.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kLanes = kSolverLanes;
/// Added to the normal equations, as a share of their mean diagonal (METHOD.md §8.3).
constexpr double kRidge = 1e-5;

int64_t n_row_tasks(const Refinement& r) {
  return (r.weight.rows() + kRowsPerTask - 1) / kRowsPerTask;
}

/// What a row's ŵ is linear in, at one column: ±c for a sign plane; code and 1 for a uniform grid,
/// whose second unknown is −scale·zero.
float basis(const Grid& grid, int k, int code, float c) {
  if (grid.kind == GridKind::kSignPlanes) return (code >> k & 1) != 0 ? c : -c;
  return k == 0 ? static_cast<float>(code) : 1.0f;
}

/// Cholesky of a small dense symmetric matrix in place (lower) and the solution of a·x = b into b.
/// False when a is not positive definite.
bool solve_positive_definite(std::vector<double>& a, std::vector<double>& b) {
  const size_t n = b.size();
  for (size_t j = 0; j < n; ++j) {
    double pivot = a[j * n + j];
    for (size_t k = 0; k < j; ++k) pivot -= a[j * n + k] * a[j * n + k];
    if (!(pivot > 0.0)) return false;
    pivot = std::sqrt(pivot);
    a[j * n + j] = pivot;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = a[i * n + j];
      for (size_t k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = sum / pivot;
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= a[i * n + k] * b[k];
    b[i] /= a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) b[i] -= a[k * n + i] * b[k];
    b[i] /= a[i * n + i];
  }
  return true;
}

/// The normal equations of kRowsPerTask rows at once: unknown (group, k) at index group·K + k,
/// groups in walking order.
struct RowTask {
  const Refinement& r;
  const SolverKernels& kernels;
  int64_t begin;  // first row
  int64_t rows;
  int n_params;
  size_t unknowns;

  RowTask(const Refinement& refinement, const SolverKernels& solver_kernels, int64_t task)
      : r(refinement),
        kernels(solver_kernels),
        begin(task * kRowsPerTask),
        rows(std::min(kRowsPerTask, refinement.weight.rows() - begin)),
        n_params(refinement.grid.n_params()),
        unknowns(refinement.groups.size() * static_cast<size_t>(n_params)) {}

  int code(int64_t row, int64_t column) const {
    return r.codes.data<uint8_t>()[(begin + row) * r.codes.cols() + column];
  }
  float c(int64_t column) const { return r.column_scale.data<float>()[column]; }

  /// Basis values of every column, [K * rows, in]: those of unknown kind k from row k * rows on, so
  /// that one product serves all kinds.
  Matrix<float> bases() const {
    const int64_t n = r.weight.cols();
    Matrix<float> values(n_params * rows, n);
    for (int k = 0; k < n_params; ++k) {
      for (int64_t i = 0; i < rows; ++i) {
        float* row = values.row(k * rows + i);
        for (int64_t j = 0; j < n; ++j) row[j] = basis(r.grid, k, code(i, j), c(j));
      }
    }
    return values;
  }

  void solve() const {
    const int64_t n = r.weight.cols();
    const Matrix<float> values = bases();
    std::vector<std::vector<double>> normal(static_cast<size_t>(rows),
                                            std::vector<double>(unknowns * unknowns, 0.0));
    std::vector<std::vector<double>> right(static_cast<size_t>(rows),
                                           std::vector<double>(unknowns, 0.0));
    const auto dot = [&](const float* a, const float* b, int64_t count) {
      return static_cast<double>(kernels.dot(a, b, count));
    };
    Matrix<float> product(n_params * rows, n);
    for (size_t b = 0; b < r.groups.size(); ++b) {
      const ColumnGroup& group_b = r.groups[b];
      const int64_t width =
          group_b.begin + group_b.size;  // columns of this and earlier groups: symmetry
      gemm_f32(false, false, n_params * rows, width, group_b.size, values.data() + group_b.begin, n,
               r.hessian.data<float>() + group_b.begin * n, n, 0.0f, product.data(), n);
      for (int l = 0; l < n_params; ++l) {
        const size_t column = b * static_cast<size_t>(n_params) + static_cast<size_t>(l);
        for (int64_t i = 0; i < rows; ++i) {
          const float* image = product.row(l * rows + i);
          std::vector<double>& matrix = normal[static_cast<size_t>(i)];
          for (size_t a = 0; a <= b; ++a) {
            const ColumnGroup& group_a = r.groups[a];
            for (int k = 0; k < n_params; ++k) {
              const size_t row = a * static_cast<size_t>(n_params) + static_cast<size_t>(k);
              const double value = dot(values.row(k * rows + i) + group_a.begin,
                                       image + group_a.begin, group_a.size);
              matrix[column * unknowns + row] = value;
              matrix[row * unknowns + column] = value;
            }
          }
          right[static_cast<size_t>(i)][column] =
              dot(values.row(l * rows + i) + group_b.begin,
                  r.target_product.data<float>() + (begin + i) * n + group_b.begin, group_b.size);
        }
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<double>& matrix = normal[static_cast<size_t>(i)];
      const std::vector<double>& b = right[static_cast<size_t>(i)];
      const std::vector<double> old = unknowns_of(i);
      // Solved for the step, so that the ridge pulls towards the old parameters and not towards 0:
      // at 4 bits and more J is so small that the latter would show.
      std::vector<double> solution = b;
      for (size_t u = 0; u < unknowns; ++u) {
        for (size_t v = 0; v < unknowns; ++v) solution[u] -= matrix[u * unknowns + v] * old[v];
      }
      std::vector<double> factor = matrix;
      double mean = 0.0;
      for (size_t u = 0; u < unknowns; ++u)
        mean += matrix[u * unknowns + u] / static_cast<double>(unknowns);
      for (size_t u = 0; u < unknowns; ++u) factor[u * unknowns + u] += kRidge * mean;
      if (!solve_positive_definite(factor, solution)) continue;
      for (size_t u = 0; u < unknowns; ++u) solution[u] += old[u];
      // Rounding to fp16 may cost more than a nearly converged row gains.
      if (round_to_stored(solution) && value(matrix, b, solution) < value(matrix, b, old))
        store(i, solution);
    }
  }

  /// J of a row up to its constant: xᵀ N x − 2 xᵀ b.
  double value(const std::vector<double>& matrix, const std::vector<double>& b,
               const std::vector<double>& x) const {
    double total = 0.0;
    for (size_t u = 0; u < unknowns; ++u) {
      double row = -2.0 * b[u];
      for (size_t v = 0; v < unknowns; ++v) row += matrix[u * unknowns + v] * x[v];
      total += x[u] * row;
    }
    return total;
  }

  float* params_of(int64_t row, const ColumnGroup& group) const {
    return r.params.data<float>() + (begin + row) * r.params.cols() + group.index * n_params;
  }

  /// The unknowns that a row's parameters stand for.
  std::vector<double> unknowns_of(int64_t row) const {
    std::vector<double> x;
    for (const ColumnGroup& group : r.groups) {
      const float* params = params_of(row, group);
      for (int k = 0; k < n_params; ++k) {
        const bool offset = r.grid.kind == GridKind::kUniform && k == 1;
        x.push_back(offset ? -static_cast<double>(params[0]) * static_cast<double>(params[1])
                           : static_cast<double>(params[k]));
      }
    }
    return x;
  }

  /// Rounds a solution to what fp16 parameters give; false when it has none (a step that is not
  /// positive).
  bool round_to_stored(std::vector<double>& x) const {
    const auto half = [](double value) {
      return static_cast<double>(to_float(to_half(static_cast<float>(value))));
    };
    for (size_t u = 0; u < unknowns; ++u) {
      if (r.grid.kind == GridKind::kUniform && u % 2 == 0) {
        x[u] = half(x[u]);
        if (!(x[u] > 0.0)) return false;
        x[u + 1] = -x[u] * half(-x[u + 1] / x[u]);
      } else if (r.grid.kind == GridKind::kSignPlanes) {
        x[u] = half(x[u]);
      }
      if (!std::isfinite(x[u])) return false;
    }
    return true;
  }

  /// Parameters, codes (a negative r flips its plane) and ŵ of a row from rounded unknowns.
  void store(int64_t row, const std::vector<double>& x) const {
    const int64_t n = r.weight.cols();
    float* weight = r.weight.data<float>() + (begin + row) * n;
    uint8_t* codes = r.codes.data<uint8_t>() + (begin + row) * n;
    for (size_t g = 0; g < r.groups.size(); ++g) {
      const ColumnGroup& group = r.groups[g];
      const double* unknown = x.data() + g * static_cast<size_t>(n_params);
      float* params = params_of(row, group);
      if (r.grid.kind == GridKind::kUniform) {
        params[0] = static_cast<float>(unknown[0]);
        params[1] = static_cast<float>(-unknown[1] / unknown[0]);
        for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
          weight[j] = params[0] * (static_cast<float>(codes[j]) - params[1]);
        }
        continue;
      }
      int flips = 0;
      for (int k = 0; k < n_params; ++k) {
        params[k] = static_cast<float>(std::abs(unknown[k]));
        if (unknown[k] < 0.0) flips |= 1 << k;
      }
      for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
        codes[j] = static_cast<uint8_t>(codes[j] ^ flips);
        weight[j] = c(j) * sign_plane_level(params, n_params, codes[j]);
      }
    }
  }
};

/// gradient [rows, in] = ŵ·H − w*·H of one row task.
Matrix<float> gradient_of(const Refinement& r, int64_t begin, int64_t rows) {
  const int64_t n = r.weight.cols();
  Matrix<float> gradient(rows, n);
  gemm_f32(false, false, rows, n, n, r.weight.data<float>() + begin * n, n, r.hessian.data<float>(),
           n, 0.0f, gradient.data(), n);
  const float* product = r.target_product.data<float>() + begin * n;
  for (int64_t i = 0; i < rows * n; ++i) gradient.data()[i] -= product[i];
  return gradient;
}

}  // namespace

void refit_scales_cpu(const Refinement& refinement, const SolverKernels& kernels,
                      ThreadPool& pool) {
  pool.parallel_for(n_row_tasks(refinement),
                    [&](int64_t task, int) { RowTask(refinement, kernels, task).solve(); });
}

void refine_codes_cpu(const Refinement& r, const SolverKernels& kernels, ThreadPool& pool) {
  const int64_t n = r.weight.cols();
  int64_t widest = 0;
  for (const ColumnGroup& group : r.groups) widest = std::max(widest, group.size);
  pool.parallel_for(n_row_tasks(r), [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const int64_t rows = std::min(kRowsPerTask, r.weight.rows() - begin);
    Matrix<float> gradient = gradient_of(r, begin, rows);
    Matrix<float> change(rows, widest);
    Matrix<float> lane_weights(widest, kLanes);
    Matrix<float> lane_gradient(widest, kLanes);
    Matrix<float> lane_codes(widest, kLanes);
    Matrix<float> lane_change(widest, kLanes);
    for (const ColumnGroup& group : r.groups) {
      for (int64_t row = 0; row < rows; row += kLanes) {
        const int64_t n_lanes = std::min(kLanes, rows - row);
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          const int64_t i = row + std::min(lane, n_lanes - 1);
          for (int64_t j = 0; j < group.size; ++j) {
            const int64_t place = (begin + i) * n + group.begin + j;
            lane_weights(j, lane) = r.weight.data<float>()[place];
            lane_codes(j, lane) = static_cast<float>(r.codes.data<uint8_t>()[place]);
            lane_gradient(j, lane) = gradient(i, group.begin + j);
          }
        }
        DescentLanes lanes{};
        lanes.weights = lane_weights.data();
        lanes.gradient = lane_gradient.data();
        lanes.hessian = r.hessian.data<float>() + group.begin * n + group.begin;
        lanes.n_columns = group.size;
        lanes.stride = n;
        lanes.grid.column_scale = r.column_scale.data<float>() + group.begin;
        lanes.codes = lane_codes.data();
        lanes.change = lane_change.data();
        load_lane_grid(r.grid,
                       r.params.data<float>() + (begin + row) * r.params.cols() +
                           group.index * r.grid.n_params(),
                       r.params.cols(), n_lanes, lanes.grid);
        kernels.descend(lanes);
        for (int64_t lane = 0; lane < n_lanes; ++lane) {
          for (int64_t j = 0; j < group.size; ++j) {
            const int64_t place = (begin + row + lane) * n + group.begin + j;
            r.weight.data<float>()[place] = lane_weights(j, lane);
            r.codes.data<uint8_t>()[place] = static_cast<uint8_t>(lane_codes(j, lane));
            change(row + lane, j) = lane_change(j, lane);
          }
        }
      }
      // Later groups feel the change; earlier ones are not read again in this sweep.
      const int64_t next = group.begin + group.size;
      if (next == n) continue;
      gemm_f32(false, false, rows, n - next, group.size, change.data(), widest,
               r.hessian.data<float>() + group.begin * n + next, n, 1.0f, gradient.data() + next,
               n);
    }
  });
}

double refinement_objective_cpu(const Refinement& r, ThreadPool& pool) {
  const int64_t n = r.weight.cols();
  std::vector<double> sums(static_cast<size_t>(n_row_tasks(r)), 0.0);
  pool.parallel_for(n_row_tasks(r), [&](int64_t task, int) {
    const int64_t begin = task * kRowsPerTask;
    const int64_t rows = std::min(kRowsPerTask, r.weight.rows() - begin);
    const Matrix<float> gradient = gradient_of(r, begin, rows);
    const float* weight = r.weight.data<float>() + begin * n;
    const float* target = r.target.data<float>() + begin * n;
    double sum = 0.0;
    for (int64_t i = 0; i < rows * n; ++i) {
      sum += (static_cast<double>(weight[i]) - static_cast<double>(target[i])) *
             static_cast<double>(gradient.data()[i]);
    }
    sums[static_cast<size_t>(task)] = sum;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace d2q
