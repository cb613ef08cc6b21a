// MatrixOps on the CPU: LAPACK on one thread for the factorisation, the pool for the rest.
#pragma once

#include <memory>

#include "kernels/cpu/cpu_context.h"
#include "kernels/matrix_ops.h"

namespace d2q {

/// `context` has to outlive the result.
std::unique_ptr<MatrixOps> make_cpu_matrix_ops(CpuContext& context);

bool inverse_factor_cpu(const Tensor& hessian, double damping, const Tensor& factor);
void asymmetry_matrix_cpu(ThreadPool& pool, const Tensor& deviation, const Tensor& factor,
                          double alpha, const Tensor& result);
/// Transposed: what Device::linear() multiplies by. f32.
void target_map_cpu(ThreadPool& pool, const Tensor& deviation, const Tensor& factor, double alpha,
                    const Tensor& map);

/// Σ_i left_i · (right_i M), rows of left and right [rows, n], M [n, n], f32. f32 products, sums
/// across tasks in f64; 2·rows·n² flops; same result on any thread count.
double quadratic_form_cpu(ThreadPool& pool, const float* left, const float* m, const float* right,
                          int64_t rows, int64_t n);

}  // namespace d2q
