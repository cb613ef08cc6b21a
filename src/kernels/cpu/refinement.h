// METHOD.md §8.3-§8.4 on the CPU: scales by least squares and codes by coordinate descent under the
// layer's Hessian, row tasks in parallel.
#pragma once

#include "base/thread_pool.h"
#include "kernels/solver_kernels.h"
#include "kernels/solver_ops.h"

namespace d2q {

void refit_scales_cpu(const Refinement& refinement, const SolverKernels& kernels, ThreadPool& pool);
void refine_codes_cpu(const Refinement& refinement, const SolverKernels& kernels, ThreadPool& pool);
double refinement_objective_cpu(const Refinement& refinement, ThreadPool& pool);

}  // namespace d2q
