// The part of SolverOps::refit_column_scale that every device shares: with V the levels (ŵ =
// V·diag(c)), J is quadratic in c, cᵀ A c − 2 cᵀ b + constant, where A = (Vᵀ V) ⊙ H and b_j = Σ_i
// V_ij (W* H)_ij. A is positive definite with H (Schur), and c starts near the solution, so
// conjugate gradients need a few dozen products with A and no factorisation.
#pragma once

#include <functional>
#include <span>
#include <vector>

namespace d2q {

/// A as a device keeps it.
struct ColumnScaleQuadratic {
  std::vector<double> diagonal;
  std::vector<double> right;  // b
  std::function<std::vector<double>(const std::vector<double>&)> times;
};

struct ColumnScaleSolution {
  std::vector<float> scale;  // empty when nothing lowers J
  double change = 0.0;       // of J
};

/// Limits of the conjugate gradients: steps, and the share of the starting residual (squared,
/// preconditioned) at which they end, because c is rounded to f32 afterwards.
inline constexpr int kColumnScaleSteps = 64;
inline constexpr double kColumnScaleTolerance = 1e-10;

/// c that minimises the quadratic, from `old` on.
ColumnScaleSolution solve_column_scale(const ColumnScaleQuadratic& quadratic,
                                       std::span<const float> old);
/// The second half of it, for devices that find the minimum themselves: c rounded to f32, every
/// column at least a quarter of what it was (c is divided by, so it stays away from 0), and whether
/// that lowers J.
ColumnScaleSolution accept_column_scale(const ColumnScaleQuadratic& quadratic,
                                        std::span<const float> old, std::vector<double> minimum);

}  // namespace d2q
