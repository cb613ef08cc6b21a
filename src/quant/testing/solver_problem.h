// A linear layer with correlated inputs and the full-precision inputs that differ from them.
// Included by tests only.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"

namespace d2q::test {

struct SolverProblem {
  Matrix<float> weight;  // [rows, n]
  Matrix<float> x;       // [tokens, n]
  Matrix<float> x_fp;    // [tokens, n]
  Matrix<float> gram;    // [n, n] = Σ x xᵀ / tokens
  Matrix<float> cross;   // [n, n] = Σ x_fp xᵀ / tokens
};

/// Inputs that share a few directions, columns of sizes from 1/2 to 2, a deviation x_fp − x that
/// depends on x; `dead` columns are zero in x.
inline SolverProblem solver_problem(int64_t rows, int64_t n, const std::vector<int64_t>& dead = {},
                                    uint64_t seed = 1) {
  constexpr int64_t kShared = 6;
  const int64_t tokens = 3 * n;
  Rng rng(seed);
  SolverProblem p{Matrix<float>(rows, n), Matrix<float>(tokens, n), Matrix<float>(tokens, n),
                  Matrix<float>(n, n), Matrix<float>(n, n)};
  for (float& value : p.weight.span()) value = static_cast<float>(rng.gaussian());
  Matrix<double> mixing(kShared, n);
  for (double& value : mixing.span()) value = rng.gaussian();
  std::vector<double> sizes(static_cast<size_t>(n));
  for (double& size : sizes) size = std::exp2(2.0 * rng.uniform() - 1.0);
  for (const int64_t column : dead) sizes[static_cast<size_t>(column)] = 0.0;
  for (int64_t t = 0; t < tokens; ++t) {
    double shared[kShared];
    for (double& value : shared) value = rng.gaussian();
    for (int64_t j = 0; j < n; ++j) {
      double value = rng.gaussian();
      for (int64_t k = 0; k < kShared; ++k) value += shared[k] * mixing(k, j);
      p.x(t, j) = static_cast<float>(sizes[static_cast<size_t>(j)] * value);
    }
    for (int64_t j = 0; j < n; ++j) {
      p.x_fp(t, j) = p.x(t, j) + static_cast<float>(0.3 * static_cast<double>(p.x(t, (j + 1) % n)) +
                                                    0.1 * rng.gaussian());
    }
  }
  const auto product = [&](const Matrix<float>& a, Matrix<float>& sum) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double total = 0.0;
        for (int64_t t = 0; t < tokens; ++t)
          total += static_cast<double>(a(t, i)) * static_cast<double>(p.x(t, j));
        sum(i, j) = static_cast<float>(total / static_cast<double>(tokens));
      }
    }
  };
  product(p.x, p.gram);
  product(p.x_fp, p.cross);
  return p;
}

}  // namespace d2q::test
