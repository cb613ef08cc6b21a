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

}  // namespace d2q
