// The decoding step's operations on the CPU: the forward's, one after another.
#pragma once

#include <memory>

#include "kernels/decode_ops.h"
#include "kernels/device.h"

namespace d2q {

/// `device` is the CPU device that owns the result.
std::unique_ptr<DecodeOps> make_cpu_decode(Device& device);

}  // namespace d2q
