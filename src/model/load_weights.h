// From named tensors of a WeightSource to weights in a device's memory.
#pragma once

#include <string>
#include <vector>

#include "model/block.h"
#include "model/family.h"

namespace d2q {

/// The tensor `name` on the device in `dtype` (kF32 or kBF16).
Tensor load_tensor(Device& device, const WeightSource& source, const std::string& name,
                   DType dtype);

/// The linear layer `module` ("lm_head", ...): packed when the source has codes for it, else dense.
Linear load_linear(Device& device, const WeightSource& source, const std::string& module,
                   DType dense_dtype);

/// The names of all tensors of block `layer`.
std::vector<std::string> block_tensors(const WeightSource& source, int64_t layer);

/// The norm `module`; its shift is the stored bias, if there is one.
NormParams load_norm(Device& device, const WeightSource& source, const std::string& module,
                     NormKind kind);

}  // namespace d2q
