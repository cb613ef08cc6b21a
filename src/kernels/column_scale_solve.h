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

/// c that minimises the quadratic, from `old` on; rounded to f32, every column at least a quarter
/// of what it was (c is divided by, so it stays away from 0). Empty when that is no improvement.
std::vector<float> solve_column_scale(const ColumnScaleQuadratic& quadratic,
                                      std::span<const float> old);

}  // namespace d2q
