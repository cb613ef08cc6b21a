#include "kernels/column_scale_solve.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace d2q {
namespace {

constexpr double kSmallestShare = 0.25;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// Conjugate gradients on A x = b from x with the diagonal as preconditioner; columns without a
/// positive diagonal stay.
void solve_from(const ColumnScaleQuadratic& quadratic, std::vector<double>& x) {
  const size_t n = x.size();
  std::vector<double> residual = quadratic.times(x);
  for (size_t j = 0; j < n; ++j) residual[j] = quadratic.right[j] - residual[j];
  const auto preconditioned = [&] {
    std::vector<double> z(n);
    for (size_t j = 0; j < n; ++j)
      z[j] = quadratic.diagonal[j] > 0.0 ? residual[j] / quadratic.diagonal[j] : 0.0;
    return z;
  };
  std::vector<double> direction = preconditioned();
  double size = dot(residual, direction);
  const double start = size;
  for (int step = 0; step < kColumnScaleSteps && size > kColumnScaleTolerance * start; ++step) {
    const std::vector<double> image = quadratic.times(direction);
    const double curvature = dot(direction, image);
    if (!(curvature > 0.0)) return;
    const double length = size / curvature;
    for (size_t j = 0; j < n; ++j) {
      x[j] += length * direction[j];
      residual[j] -= length * image[j];
    }
    const std::vector<double> z = preconditioned();
    const double next = dot(residual, z);
    for (size_t j = 0; j < n; ++j) direction[j] = z[j] + next / size * direction[j];
    size = next;
  }
}

}  // namespace

ColumnScaleSolution solve_column_scale(const ColumnScaleQuadratic& quadratic,
                                       std::span<const float> old) {
  std::vector<double> minimum(old.begin(), old.end());
  solve_from(quadratic, minimum);
  return accept_column_scale(quadratic, old, std::move(minimum));
}

ColumnScaleSolution accept_column_scale(const ColumnScaleQuadratic& quadratic,
                                        std::span<const float> old, std::vector<double> minimum) {
  const std::vector<double> start(old.begin(), old.end());
  std::vector<double> solution = std::move(minimum);
  std::vector<float> rounded(old.size());
  for (size_t j = 0; j < rounded.size(); ++j) {
    rounded[j] = std::isfinite(solution[j])
                     ? static_cast<float>(std::max(solution[j], kSmallestShare * start[j]))
                     : old[j];
    solution[j] = static_cast<double>(rounded[j]);
  }
  const auto value = [&](const std::vector<double>& x) {
    return dot(x, quadratic.times(x)) - 2.0 * dot(x, quadratic.right);
  };
  const double change = value(solution) - value(start);
  if (!(change < 0.0)) return {};
  return {std::move(rounded), change};
}

}  // namespace d2q
