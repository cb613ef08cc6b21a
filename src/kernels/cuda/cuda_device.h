// The GPU as a Device.
#pragma once

#include <memory>

#include "kernels/cuda/cuda_context.h"
#include "kernels/device.h"

namespace d2q {

std::unique_ptr<Device> make_cuda_device(std::shared_ptr<CudaContext> context);

}  // namespace d2q
