// GradientOps on the GPU; kernels/gradient_ops.h says what each function computes.
#pragma once

#include <memory>

#include "kernels/cuda/cuda_context.h"
#include "kernels/gradient_ops.h"

namespace d2q {

std::unique_ptr<GradientOps> make_cuda_gradients(std::shared_ptr<CudaContext> context);

}  // namespace d2q
