// The two matrices that GPTAQ's column walk reads (METHOD.md §4), factorised in f64.
#pragma once

#include <cstdint>
#include <optional>

#include "base/matrix.h"
#include "base/thread_pool.h"

namespace d2q {

/// Upper U with (Hess + damping·mean(diag)·I)⁻¹ = Uᵀ U, or nullopt when the damped matrix is not
/// positive definite. hessian: symmetric [n, n]. Cost n³·2/3 flops: with J the reversal, J·Hess·J =
/// L Lᵀ gives U = J L⁻¹ J, which spares the explicit inverse and the second factorisation.
std::optional<Matrix<double>> inverse_factor(const Matrix<double>& hessian, double damping);

/// P = alpha · triu(D Uᵀ, 1) U, strictly upper. 2 n³ flops, in parallel over row blocks.
Matrix<double> asymmetry_matrix(const Matrix<double>& cross_deviation, const Matrix<double>& factor,
                                double alpha, ThreadPool& pool);

/// alpha · D Hess⁻¹ = alpha · (D Uᵀ) U, the map of METHOD.md §8.1: W* = W (I + this). 4 n³ flops,
/// in parallel over row blocks.
Matrix<double> asymmetric_target_map(const Matrix<double>& cross_deviation,
                                     const Matrix<double>& factor, double alpha, ThreadPool& pool);

}  // namespace d2q
