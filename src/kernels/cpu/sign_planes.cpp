#include "kernels/cpu/sign_planes.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/half.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 64;
/// Keeps c invertible for columns that are zero or nearly so: at least this share of the group's mean.
constexpr float kSmallestColumnShare = 1.0f / 256.0f;

/// Solves the symmetric n x n system (n <= 3) a·x = b by Gaussian elimination in f64; a singular
/// direction (two equal sign planes) gets x = 0 through a small ridge.
void solve_small(double a[kMaxPlanes][kMaxPlanes], double b[kMaxPlanes], int n, float* x) {
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
    for (int k = i + 1; k < n; ++k) sum -= a[i][k] * static_cast<double>(x[k]);
    x[i] = static_cast<float>(sum / a[i][i]);
  }
}

/// One row's view of the fit: codes hold the sign planes as bits.
struct RowFit {
  const float* x;   // [cols]
  const float* c;   // [cols]
  uint8_t* codes;   // [cols]
  float* r;         // [planes]
  int64_t cols;
  int planes;

  /// Greedy start: plane after plane, sign of the residual and its least-squares factor.
  void initialise() const {
    std::fill(codes, codes + cols, uint8_t{0});
    std::vector<float> residual(x, x + cols);
    for (int p = 0; p < planes; ++p) {
      double numerator = 0.0;
      double denominator = 0.0;
      for (int64_t j = 0; j < cols; ++j) {
        numerator += static_cast<double>(std::abs(residual[static_cast<size_t>(j)])) * static_cast<double>(c[j]);
        denominator += static_cast<double>(c[j]) * static_cast<double>(c[j]);
      }
      r[p] = denominator > 0.0 ? static_cast<float>(numerator / denominator) : 0.0f;
      for (int64_t j = 0; j < cols; ++j) {
        float& left = residual[static_cast<size_t>(j)];
        const bool positive = left >= 0.0f;
        if (positive) codes[j] = static_cast<uint8_t>(codes[j] | (1 << p));
        left -= positive ? c[j] * r[p] : -c[j] * r[p];
      }
    }
  }

  /// (1) of §5.2: joint least squares of r with the planes fixed; a negative r flips its plane.
  void fit_scales() const {
    double a[kMaxPlanes][kMaxPlanes] = {};
    double b[kMaxPlanes] = {};
    // Correlations of the planes: entry [d] sums c² over columns whose codes differ in the pair.
    double total = 0.0;
    double differing[kMaxPlanes][kMaxPlanes] = {};
    for (int64_t j = 0; j < cols; ++j) {
      const double c2 = static_cast<double>(c[j]) * static_cast<double>(c[j]);
      const double cx = static_cast<double>(c[j]) * static_cast<double>(x[j]);
      total += c2;
      const int code = codes[j];
      for (int p = 0; p < planes; ++p) {
        b[p] += (code >> p & 1) != 0 ? cx : -cx;
        for (int q = 0; q < p; ++q) {
          if (((code >> p) ^ (code >> q)) & 1) differing[p][q] += c2;
        }
      }
    }
    for (int p = 0; p < planes; ++p) {
      a[p][p] = total;
      for (int q = 0; q < p; ++q) a[p][q] = a[q][p] = total - 2.0 * differing[p][q];
    }
    if (total <= 0.0) return;
    solve_small(a, b, planes, r);
    for (int p = 0; p < planes; ++p) {
      if (r[p] >= 0.0f) continue;
      r[p] = -r[p];
      for (int64_t j = 0; j < cols; ++j) codes[j] = static_cast<uint8_t>(codes[j] ^ (1 << p));
    }
  }

  /// (2) of §5.2, this row's share: numerator Σ X·S and denominator Σ S² of every column.
  void add_column_sums(float* numerator, float* denominator) const {
    float levels[1 << kMaxPlanes];
    for (int k = 0; k < 1 << planes; ++k) levels[k] = plane_level(r, planes, k);
    for (int64_t j = 0; j < cols; ++j) {
      const float s = levels[codes[j]];
      numerator[j] += x[j] * s;
      denominator[j] += s * s;
    }
  }

  /// (3) of §5.2: every code to the nearest level.
  void assign_codes() const {
    float levels[1 << kMaxPlanes];
    const int n_levels = 1 << planes;
    for (int k = 0; k < n_levels; ++k) levels[k] = plane_level(r, planes, k);
    for (int64_t j = 0; j < cols; ++j) {
      float best = std::abs(x[j] - c[j] * levels[0]);
      uint8_t code = 0;
      for (int k = 1; k < n_levels; ++k) {
        const float distance = std::abs(x[j] - c[j] * levels[k]);
        code = distance < best ? static_cast<uint8_t>(k) : code;
        best = distance < best ? distance : best;
      }
      codes[j] = code;
    }
  }
};

}  // namespace

void fit_sign_planes(const GroupBlock& block, int planes, int iterations, bool fit_column_scale,
                     std::span<float> r, std::span<float> c, ThreadPool& pool) {
  const int64_t rows = block.rows;
  const int64_t cols = block.cols;
  D2Q_CHECK(planes >= 1 && planes <= kMaxPlanes, "{} planes", planes);
  D2Q_CHECK(static_cast<int64_t>(r.size()) == rows * planes && static_cast<int64_t>(c.size()) == cols,
            "r {} c {} for {}x{}", r.size(), c.size(), rows, cols);
  const int64_t n_tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  // Column sums are added up task by task in order, so the thread count cannot show.
  std::vector<float> numerators(static_cast<size_t>(n_tasks * cols));
  std::vector<float> denominators(static_cast<size_t>(n_tasks * cols));
  const auto for_rows = [&](auto&& body) {
    pool.parallel_for(n_tasks, [&](int64_t task, int) {
      const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t i = task * kRowsPerTask; i < end; ++i) {
        body(task, RowFit{block.data + i * block.stride, c.data(), codes.data() + i * cols,
                          r.data() + i * planes, cols, planes});
      }
    });
  };
  const auto reduce = [&](const std::vector<float>& parts, int64_t j) {
    double sum = 0.0;
    for (int64_t task = 0; task < n_tasks; ++task) sum += static_cast<double>(parts[static_cast<size_t>(task * cols + j)]);
    return sum;
  };
  const auto clear_sums = [&] {
    std::fill(numerators.begin(), numerators.end(), 0.0f);
    std::fill(denominators.begin(), denominators.end(), 0.0f);
  };

  std::fill(c.begin(), c.end(), 1.0f);
  if (fit_column_scale) {
    clear_sums();
    for_rows([&](int64_t task, const RowFit& row) {
      for (int64_t j = 0; j < cols; ++j) numerators[static_cast<size_t>(task * cols + j)] += std::abs(row.x[j]);
    });
    double mean = 0.0;
    for (int64_t j = 0; j < cols; ++j) {
      c[static_cast<size_t>(j)] = static_cast<float>(reduce(numerators, j) / static_cast<double>(rows));
      mean += static_cast<double>(c[static_cast<size_t>(j)]) / static_cast<double>(cols);
    }
    for (float& value : c) value = mean > 0.0 ? std::max(value, kSmallestColumnShare * static_cast<float>(mean)) : 1.0f;
  }
  for_rows([](int64_t, const RowFit& row) { row.initialise(); });
  for (int iteration = 0; iteration < iterations; ++iteration) {
    if (!fit_column_scale) {
      for_rows([](int64_t, const RowFit& row) {
        row.fit_scales();
        row.assign_codes();
      });
      continue;
    }
    clear_sums();
    for_rows([&](int64_t task, const RowFit& row) {
      row.fit_scales();
      row.add_column_sums(numerators.data() + task * cols, denominators.data() + task * cols);
    });
    double mean = 0.0;
    for (int64_t j = 0; j < cols; ++j) {
      const double denominator = reduce(denominators, j);
      if (denominator > 0.0) c[static_cast<size_t>(j)] = static_cast<float>(std::abs(reduce(numerators, j) / denominator));
      mean += static_cast<double>(c[static_cast<size_t>(j)]) / static_cast<double>(cols);
    }
    for (float& value : c) value = std::max(value, kSmallestColumnShare * static_cast<float>(mean));
    for_rows([](int64_t, const RowFit& row) { row.assign_codes(); });
  }

  double log_sum = 0.0;
  for (const float value : c) log_sum += std::log(static_cast<double>(value));
  const double factor = std::exp(log_sum / static_cast<double>(cols));
  for (float& value : c) value = static_cast<float>(static_cast<double>(value) / factor);
  for (float& value : r) {
    value = to_float(to_half(std::min(static_cast<float>(static_cast<double>(value) * factor), kHalfMax)));
  }
}

}  // namespace d2q
