// What every device demands of an operation's arguments (device.h), written once. A mistake is
// InternalError.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace d2q {

/// Device::linear.
void check_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);
/// Device::rope and its backward.
void check_rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions,
                const Tensor& cos, const Tensor& sin);
/// Device::accumulate_gram and accumulate_cross.
void check_accumulation(const Tensor& a, const Tensor& b, const Tensor& sum);
/// x [T, n] f32 into y of the same shape, f32 or bf16.
void check_output(const Tensor& x, const Tensor& y);

}  // namespace d2q
