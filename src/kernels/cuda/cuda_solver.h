// SolverOps on an NVIDIA GPU: everything is enqueued on the context's stream, rows in parallel,
// trailing updates by cuBLAS in f32. Results depend on the sizes alone, not on the GPU's load.
#pragma once

#include <memory>

#include "kernels/cuda/cuda_context.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// Operations return before the GPU has finished, but for objective().
std::unique_ptr<SolverOps> make_cuda_solver(std::shared_ptr<CudaContext> context);

}  // namespace d2q
