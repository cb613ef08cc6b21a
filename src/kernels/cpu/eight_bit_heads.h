// Keys and values in 8 bits: a row of a cache has head_dim signed bytes and their f32 scale for
// each head, one head after the other, in a kU8 tensor. A value is scale * byte.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/cpu_context.h"
#include "kernels/tensor.h"

namespace d2q {

constexpr int64_t eight_bit_head_bytes(int64_t head_dim) {
  return head_dim + static_cast<int64_t>(sizeof(float));
}

/// Of the head at `head`, which need not be aligned.
inline float eight_bit_scale(const uint8_t* head, int64_t head_dim) {
  float scale = 0.0f;
  std::memcpy(&scale, head + head_dim, sizeof(scale));
  return scale;
}

/// rows [T, n_heads * eight_bit_head_bytes(head_dim)] kU8 from x [T, n_heads * head_dim] f32. A
/// head's scale is its largest magnitude / 127, so that no value is off by more than half of it;
/// Inf or NaN in a head makes its scale NaN.
void quantize_heads(CpuContext& context, const Tensor& x, int64_t head_dim, const Tensor& rows);

/// A head's values [head_dim].
void dequantize_head(const uint8_t* head, int64_t head_dim, float* values);

}  // namespace d2q
