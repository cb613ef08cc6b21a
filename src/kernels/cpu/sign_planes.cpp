#include "kernels/cpu/sign_planes.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/half.h"
#include "base/matrix.h"

namespace d2q {
namespace {

constexpr int kLanes = kSolverLanes;
constexpr int kMaxPlanes = kSolverMaxPlanes;
/// Keeps c invertible for columns that are zero or nearly so: at least this share of the group's
/// mean.
constexpr float kSmallestColumnShare = 1.0f / 256.0f;

/// Solves the symmetric n x n system (n <= 3) a·x = b by Gaussian elimination in f64; a singular
/// direction (two equal sign planes) gets x = 0 through a small ridge.
void solve_small(double a[kMaxPlanes][kMaxPlanes], double b[kMaxPlanes], int n, double* x) {
  double trace = 0.0;
  for (int i = 0; i < n; ++i) trace += a[i][i];
  for (int i = 0; i < n; ++i) a[i][i] += 1e-9 * trace + 1e-30;
  for (int i = 0; i < n; ++i) {
    for (int r = i + 1; r < n; ++r) {
      const double factor = a[r][i] / a[i][i];
      for (int k = i; k < n; ++k) a[r][k] -= factor * a[i][k];
      b[r] -= factor * b[i];
    }
  }
  for (int i = n - 1; i >= 0; --i) {
    double sum = b[i];
    for (int k = i + 1; k < n; ++k) sum -= a[i][k] * x[k];
    x[i] = sum / a[i][i];
  }
}

/// 16 rows of the fit, lane-major; lanes beyond the matrix repeat its last row and are not read
/// back.
struct RowLanes {
  const SolverKernels& kernels;
  const float* x;      // [cols][16]
  int32_t* codes;      // [cols][16], the sign planes as bits
  float (*r)[kLanes];  // [planes][16]
  const float* c;      // [cols]
  int64_t cols;
  int planes;
  int64_t n_lanes;

  /// Greedy start: plane after plane, sign of the residual and its least-squares factor.
  void initialise() const {
    std::fill(codes, codes + cols * kLanes, 0);
    double denominator = 0.0;
    for (int64_t j = 0; j < cols; ++j)
      denominator += static_cast<double>(c[j]) * static_cast<double>(c[j]);
    std::vector<float> residual(x, x + cols * kLanes);
    for (int p = 0; p < planes; ++p) {
      for (int lane = 0; lane < kLanes; ++lane) {
        double numerator = 0.0;
        for (int64_t j = 0; j < cols; ++j) {
          numerator +=
              static_cast<double>(std::abs(residual[static_cast<size_t>(j * kLanes + lane)])) *
              static_cast<double>(c[j]);
        }
        r[p][lane] = denominator > 0.0 ? static_cast<float>(numerator / denominator) : 0.0f;
        for (int64_t j = 0; j < cols; ++j) {
          float& left = residual[static_cast<size_t>(j * kLanes + lane)];
          const bool positive = left >= 0.0f;
          if (positive) codes[j * kLanes + lane] |= 1 << p;
          left -= positive ? c[j] * r[p][lane] : -c[j] * r[p][lane];
        }
      }
    }
  }

  /// (1) of §5.2: joint least squares of r with the planes fixed; a negative r flips its plane.
  void fit_scales() const {
    float products[kMaxPlanes][kLanes];
    float differing[kMaxPlanes * kMaxPlanes][kLanes];
    kernels.plane_sums(x, codes, c, cols, planes, products[0], differing[0]);
    double total = 0.0;
    for (int64_t j = 0; j < cols; ++j)
      total += static_cast<double>(c[j]) * static_cast<double>(c[j]);
    if (total <= 0.0) return;
    int32_t flips[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
      double a[kMaxPlanes][kMaxPlanes] = {};
      double b[kMaxPlanes] = {};
      double solved[kMaxPlanes] = {};
      for (int p = 0; p < planes; ++p) {
        b[p] = static_cast<double>(products[p][lane]);
        a[p][p] = total;
        for (int q = 0; q < p; ++q) {
          a[p][q] = a[q][p] = total - 2.0 * static_cast<double>(differing[p * planes + q][lane]);
        }
      }
      solve_small(a, b, planes, solved);
      for (int p = 0; p < planes; ++p) {
        r[p][lane] = static_cast<float>(std::abs(solved[p]));
        if (solved[p] < 0.0) flips[lane] |= 1 << p;
      }
    }
    kernels.flip_codes(codes, cols, flips);
  }

  /// (2) of §5.2, these rows' share: numerator Σ X·S and denominator Σ S² of every column.
  void add_column_sums(float* numerators, float* denominators) const {
    float levels[kSolverMaxLevels][kLanes];
    plane_levels(r, planes, levels);
    kernels.plane_column_sums(x, codes, levels[0], 1 << planes, cols, n_lanes, numerators,
                              denominators);
  }

  /// (3) of §5.2: every code to the nearest level.
  void assign() const {
    float levels[kSolverMaxLevels][kLanes];
    plane_levels(r, planes, levels);
    kernels.assign_codes(x, c, levels[0], 1 << planes, cols, codes);
  }
};

/// Sums that tasks made apart, added up in their order so that the thread count cannot show.
struct ColumnSums {
  ColumnSums(int64_t n_tasks, int64_t cols) : parts(n_tasks, cols, true) {}
  void clear() { std::fill(parts.data(), parts.data() + parts.size(), 0.0f); }
  double total(int64_t column) const {
    double sum = 0.0;
    for (int64_t task = 0; task < parts.rows(); ++task)
      sum += static_cast<double>(parts(task, column));
    return sum;
  }
  Matrix<float> parts;
};

double mean_of(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value);
  return sum / static_cast<double>(values.size());
}

}  // namespace

void plane_levels(const float (*r)[kSolverLanes], int planes, float (*levels)[kSolverLanes]) {
  for (int code = 0; code < 1 << planes; ++code) {
    for (int lane = 0; lane < kSolverLanes; ++lane) {
      float level = 0.0f;
      for (int p = 0; p < planes; ++p) level += (code >> p & 1) != 0 ? r[p][lane] : -r[p][lane];
      levels[code][lane] = level;
    }
  }
}

void fit_sign_planes(const SolverKernels& kernels, const GroupBlock& block, int planes,
                     int iterations, bool fit_column_scale, std::span<float> r, std::span<float> c,
                     ThreadPool& pool) {
  const int64_t rows = block.rows;
  const int64_t cols = block.cols;
  D2Q_CHECK(planes >= 1 && planes <= kMaxPlanes, "{} planes", planes);
  D2Q_CHECK(
      static_cast<int64_t>(r.size()) == rows * planes && static_cast<int64_t>(c.size()) == cols,
      "r {} c {} for {}x{}", r.size(), c.size(), rows, cols);
  const int64_t n_tasks = (rows + kLanes - 1) / kLanes;
  Matrix<float> x(n_tasks, cols * kLanes);
  Matrix<int32_t> codes(n_tasks, cols * kLanes);
  Matrix<float> scales(n_tasks, kMaxPlanes * kLanes);
  ColumnSums numerators(n_tasks, cols);
  ColumnSums denominators(n_tasks, cols);
  const auto for_lanes = [&](auto&& body) {
    pool.parallel_for(n_tasks, [&](int64_t task, int) {
      body(task, RowLanes{kernels, x.row(task), codes.row(task),
                          reinterpret_cast<float(*)[kLanes]>(scales.row(task)), c.data(), cols,
                          planes, std::min<int64_t>(kLanes, rows - task * kLanes)});
    });
  };

  std::fill(c.begin(), c.end(), 1.0f);
  for_lanes([&](int64_t task, const RowLanes& lanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float* row = block.data + std::min(task * kLanes + lane, rows - 1) * block.stride;
      for (int64_t j = 0; j < cols; ++j) {
        x(task, j * kLanes + lane) = row[j];
        if (lane < lanes.n_lanes) numerators.parts(task, j) += std::abs(row[j]);
      }
    }
  });
  if (fit_column_scale) {
    for (int64_t j = 0; j < cols; ++j) {
      c[static_cast<size_t>(j)] =
          static_cast<float>(numerators.total(j) / static_cast<double>(rows));
    }
    const auto smallest = kSmallestColumnShare * static_cast<float>(mean_of(c));
    for (float& value : c) value = smallest > 0.0f ? std::max(value, smallest) : 1.0f;
  }
  for_lanes([](int64_t, const RowLanes& lanes) { lanes.initialise(); });
  if (!fit_column_scale) {
    for_lanes([&](int64_t, const RowLanes& lanes) {
      for (int iteration = 0; iteration < iterations; ++iteration) {
        lanes.fit_scales();
        lanes.assign();
      }
    });
  }
  for (int iteration = 0; fit_column_scale && iteration < iterations; ++iteration) {
    numerators.clear();
    denominators.clear();
    for_lanes([&](int64_t task, const RowLanes& lanes) {
      if (iteration > 0) lanes.assign();
      lanes.fit_scales();
      lanes.add_column_sums(numerators.parts.row(task), denominators.parts.row(task));
    });
    for (int64_t j = 0; j < cols; ++j) {
      const double denominator = denominators.total(j);
      if (denominator > 0.0)
        c[static_cast<size_t>(j)] = static_cast<float>(std::abs(numerators.total(j) / denominator));
    }
    const auto smallest = kSmallestColumnShare * static_cast<float>(mean_of(c));
    for (float& value : c) value = std::max(value, smallest);
  }

  double log_sum = 0.0;
  for (const float value : c) log_sum += std::log(static_cast<double>(value));
  const double factor = std::exp(log_sum / static_cast<double>(cols));
  for (float& value : c) value = static_cast<float>(static_cast<double>(value) / factor);
  for (int64_t i = 0; i < rows; ++i) {
    for (int p = 0; p < planes; ++p) {
      const double value =
          static_cast<double>(scales(i / kLanes, p * kLanes + i % kLanes)) * factor;
      r[static_cast<size_t>(i * planes + p)] =
          to_float(to_half(std::min(static_cast<float>(value), kHalfMax)));
    }
  }
}

}  // namespace d2q
