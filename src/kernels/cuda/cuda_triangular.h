// The inverse of a triangular matrix on an NVIDIA GPU.
#pragma once

#include "kernels/cuda/cuda_context.h"

namespace d2q {

/// a [n, n] f64, row-major: its lower triangle becomes the inverse of that triangle, zeros above
/// it. A zero on the diagonal gives Inf or NaN. `workspace` holds at least n·n/4 elements. Some
/// 0.45 n³ flops in products.
void invert_lower_cuda(CudaContext& context, double* a, int64_t n, double* workspace);

}  // namespace d2q
