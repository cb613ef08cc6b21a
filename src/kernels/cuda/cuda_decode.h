// The decoding step's operations on the GPU, and recordings of them.
#pragma once

#include <memory>

#include "kernels/cuda/cuda_context.h"
#include "kernels/decode_ops.h"

namespace d2q {

std::unique_ptr<DecodeOps> make_cuda_decode(std::shared_ptr<CudaContext> context);

/// The first run is an ordinary one, the second is captured as a CUDA graph, later ones launch it.
std::unique_ptr<Repeatable> make_cuda_repeatable(std::shared_ptr<CudaContext> context,
                                                 std::function<void()> work);

}  // namespace d2q
