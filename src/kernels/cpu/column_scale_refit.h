// The column scale c of METHOD.md §5.2 by least squares under the layer's Hessian, codes and row
// scales fixed.
#pragma once

#include "base/thread_pool.h"
#include "kernels/solver_ops.h"

namespace d2q {

void refit_column_scale_cpu(const Refinement& refinement, ThreadPool& pool);

}  // namespace d2q
