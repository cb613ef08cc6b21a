// METHOD.md §4 written out literally in f64: explicit inverse, Cholesky, P by its formula, one row
// and one column at a time. Included by tests only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/half.h"
#include "base/matrix.h"
#include "kernels/solver_ops.h"
#include "quant/solve.h"

namespace d2q::test {

inline Matrix<double> widen(const Matrix<float>& matrix) {
  Matrix<double> result(matrix.rows(), matrix.cols());
  std::copy_n(matrix.data(), matrix.size(), result.data());
  return result;
}

/// Gauss-Jordan with row exchanges.
inline Matrix<double> inverse(Matrix<double> a) {
  const int64_t n = a.rows();
  Matrix<double> result(n, n, true);
  for (int64_t i = 0; i < n; ++i) result(i, i) = 1.0;
  for (int64_t column = 0; column < n; ++column) {
    int64_t pivot = column;
    for (int64_t i = column + 1; i < n; ++i) {
      if (std::abs(a(i, column)) > std::abs(a(pivot, column))) pivot = i;
    }
    for (int64_t j = 0; j < n; ++j) {
      std::swap(a(column, j), a(pivot, j));
      std::swap(result(column, j), result(pivot, j));
    }
    const double scale = 1.0 / a(column, column);
    for (int64_t j = 0; j < n; ++j) {
      a(column, j) *= scale;
      result(column, j) *= scale;
    }
    for (int64_t i = 0; i < n; ++i) {
      const double factor = a(i, column);
      if (i == column || factor == 0.0) continue;
      for (int64_t j = 0; j < n; ++j) {
        a(i, j) -= factor * a(column, j);
        result(i, j) -= factor * result(column, j);
      }
    }
  }
  return result;
}

/// Upper U with a = Uᵀ U.
inline Matrix<double> upper_cholesky(const Matrix<double>& a) {
  const int64_t n = a.rows();
  Matrix<double> u(n, n, true);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = a(i, j);
      for (int64_t k = 0; k < i; ++k) sum -= u(k, i) * u(k, j);
      u(i, j) = i == j ? std::sqrt(sum) : sum / u(i, i);
    }
  }
  return u;
}

/// The literal walk, led by the decisions of a solution: it takes the solution's scales and codes
/// and counts those that it would not have made itself.
class LiteralGptaq {
 public:
  /// hessian, deviation (D) [n, n]; alpha 0 is GPTQ.
  LiteralGptaq(Matrix<double> hessian, Matrix<double> deviation, double alpha, double damping,
               int64_t group_size)
      : n_(hessian.rows()), group_size_(group_size), dead_(static_cast<size_t>(n_)) {
    for (int64_t j = 0; j < n_; ++j) {
      if (hessian(j, j) != 0.0) continue;
      dead_[static_cast<size_t>(j)] = true;
      hessian(j, j) = 1.0;
      for (int64_t i = 0; i < n_; ++i) deviation(i, j) = 0.0;
    }
    choose_order(hessian);
    Matrix<double> h = permuted(hessian);
    const Matrix<double> d = permuted(deviation);
    double mean = 0.0;
    for (int64_t i = 0; i < n_; ++i) mean += h(i, i) / static_cast<double>(n_);
    for (int64_t i = 0; i < n_; ++i) h(i, i) += damping * mean;
    u_ = upper_cholesky(inverse(std::move(h)));
    Matrix<double> strict(n_, n_, true);  // triu(D Uᵀ, 1)
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = i + 1; j < n_; ++j) {
        for (int64_t k = 0; k < n_; ++k) strict(i, j) += d(i, k) * u_(j, k);
      }
    }
    p_ = Matrix<double>(n_, n_, true);
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < n_; ++j) {
        for (int64_t k = 0; k < n_; ++k) p_(i, j) += alpha * strict(i, k) * u_(k, j);
      }
    }
  }

  struct Verdict {
    int64_t wrong_codes = 0;   // not the nearest level, by more than the margin
    int64_t wrong_scales = 0;  // another clip fits better by more than 1 in 1000 (uniform grids)
  };
  /// Blocks of 128 columns, as METHOD.md has them.
  Verdict judge(const Matrix<float>& weight, const LinearSolution& solution, double margin) const {
    Verdict verdict;
    for (int64_t row = 0; row < weight.rows(); ++row) {
      std::vector<double> w(static_cast<size_t>(n_));
      for (int64_t k = 0; k < n_; ++k) {
        const int64_t column = order_[static_cast<size_t>(k)];
        w[static_cast<size_t>(k)] =
            dead_[static_cast<size_t>(column)] ? 0.0 : static_cast<double>(weight(row, column));
      }
      for (int64_t begin = 0; begin < n_; begin += 128) {
        walk_block(begin, std::min(n_, begin + 128), row, solution, margin, w, verdict);
      }
    }
    return verdict;
  }

 private:
  void choose_order(const Matrix<double>& hessian) {
    const auto larger = [&](int64_t a, int64_t b) { return hessian(a, a) > hessian(b, b); };
    std::vector<std::vector<int64_t>> groups;
    for (int64_t j = 0; j < n_; ++j) {
      if (j % group_size_ == 0) groups.emplace_back();
      groups.back().push_back(j);
    }
    for (auto& group : groups) std::stable_sort(group.begin(), group.end(), larger);
    std::stable_sort(groups.begin(), groups.end(),
                     [&](const auto& a, const auto& b) { return larger(a.front(), b.front()); });
    for (const auto& group : groups) order_.insert(order_.end(), group.begin(), group.end());
  }

  Matrix<double> permuted(const Matrix<double>& matrix) const {
    Matrix<double> result(n_, n_);
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < n_; ++j) {
        result(i, j) = matrix(order_[static_cast<size_t>(i)], order_[static_cast<size_t>(j)]);
      }
    }
    return result;
  }

  void walk_block(int64_t begin, int64_t end, int64_t row, const LinearSolution& solution,
                  double margin, std::vector<double>& w, Verdict& verdict) const {
    const auto at = [](int64_t i) { return static_cast<size_t>(i); };
    const int n_params = solution.layout.n_params();
    std::vector<double> errors(at(n_));
    for (int64_t k = begin; k < end; ++k) {
      const int64_t column = order_[at(k)];
      const int64_t group = column / group_size_;
      const float* params =
          solution.params.data() + row * solution.layout.n_groups() * n_params + group * n_params;
      const bool starts = k == 0 || order_[at(k - 1)] / group_size_ != group;
      if (starts && solution.layout.kind == PackedKind::kUniform) {
        const int64_t size = std::min(group_size_, n_ - group * group_size_);
        const std::vector<double> current(w.begin() + k, w.begin() + k + size);
        if (!is_best_clip(current, params, solution.layout.bits)) ++verdict.wrong_scales;
      }
      const auto c = static_cast<double>(solution.column_scale[at(column)]);
      const auto level = [&](int code) { return c * level_of(solution.layout, params, code); };
      double nearest = HUGE_VAL;
      for (int code = 0; code < 1 << solution.layout.bits; ++code) {
        nearest = std::min(nearest, std::abs(w[at(k)] - level(code)));
      }
      const double q = level(solution.codes[at(row * n_ + column)]);
      if (std::abs(w[at(k)] - q) > nearest + margin) ++verdict.wrong_codes;
      const double target = w[at(k)];
      errors[at(k)] = (target - q) / u_(k, k);
      for (int64_t j = k; j < end; ++j) w[at(j)] -= errors[at(k)] * u_(k, j) - target * p_(k, j);
    }
    for (int64_t j = end; j < n_; ++j) {
      for (int64_t k = begin; k < end; ++k)
        w[at(j)] -= errors[at(k)] * u_(k, j) - w[at(k)] * p_(k, j);
    }
  }

  static double level_of(const PackedLayout& layout, const float* params, int code) {
    if (layout.kind == PackedKind::kUniform) {
      return static_cast<double>(params[0]) * (code - static_cast<double>(params[1]));
    }
    double sum = 0.0;
    for (int p = 0; p < layout.bits; ++p) {
      sum +=
          (code >> p & 1) != 0 ? static_cast<double>(params[p]) : -static_cast<double>(params[p]);
    }
    return sum;
  }

  static double clip_error(const std::vector<double>& values, double scale, double zero,
                           double max_code) {
    double sum = 0.0;
    for (const double value : values) {
      const double code = std::clamp(std::nearbyint(value / scale) + zero, 0.0, max_code);
      sum += std::pow(std::abs(value - scale * (code - zero)), 2.4);
    }
    return sum;
  }

  /// METHOD.md §5.1, scales rounded to fp16 as they are stored.
  static bool is_best_clip(const std::vector<double>& values, const float* params, int bits) {
    const double max_code = (1 << bits) - 1;
    const double low = std::min(0.0, *std::min_element(values.begin(), values.end()));
    const double high = std::max(0.0, *std::max_element(values.begin(), values.end()));
    double best = HUGE_VAL;
    for (int i = 0; i < 80; ++i) {
      const double p = 1.0 - i / 100.0;
      const auto scale =
          static_cast<double>(to_float(to_half(static_cast<float>(p * (high - low) / max_code))));
      const double zero = std::clamp(std::nearbyint(-p * low / scale), 0.0, max_code);
      best = std::min(best, clip_error(values, scale, zero, max_code));
    }
    const double found = clip_error(values, static_cast<double>(params[0]),
                                    static_cast<double>(params[1]), max_code);
    return found <= best * 1.001;
  }

  int64_t n_;
  int64_t group_size_;
  std::vector<bool> dead_;
  std::vector<int64_t> order_;
  Matrix<double> u_;
  Matrix<double> p_;
};

}  // namespace d2q::test
