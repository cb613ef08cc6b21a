#include "kernels/column_scale_solve.h"

#include <algorithm>
#include <cmath>

namespace d2q {
namespace {

constexpr int kSteps = 64;
/// Share of the starting residual (squared, preconditioned) at which the steps end: c is rounded to
/// f32 afterwards.
constexpr double kTolerance = 1e-10;
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
  for (int step = 0; step < kSteps && size > kTolerance * start; ++step) {
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

std::vector<float> solve_column_scale(const ColumnScaleQuadratic& quadratic,
                                      std::span<const float> old) {
  const std::vector<double> start(old.begin(), old.end());
  std::vector<double> solution = start;
  solve_from(quadratic, solution);
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
  if (!(value(solution) < value(start))) return {};
  return rounded;
}

}  // namespace d2q
