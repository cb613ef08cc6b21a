// SolverOps on the CPU: rows in parallel, f32 arithmetic, trailing updates by a library GEMM.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "kernels/solver_kernels.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// `kernels` is the table of an ISA that this machine has. The pool must outlive the solver.
std::unique_ptr<SolverOps> make_cpu_solver(ThreadPool& pool, const SolverKernels& kernels);

}  // namespace d2q
