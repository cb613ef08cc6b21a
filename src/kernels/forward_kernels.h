// The vectorised inner loops of the forward, one table per ISA. bf16 and f16 values travel as their
// bits. Pointers need no alignment; in-place calls (y == x) are allowed everywhere. The scalar
// table is the specification. Included by ISA files: <cstdint> only.
#pragma once

#include <cstdint>

namespace d2q {

struct ForwardKernels {
  const char* name;

  // Conversions of n values: nearest even, NaN stays NaN.
  void (*f32_to_bf16)(const float* x, uint16_t* y, int64_t n) noexcept;
  void (*bf16_to_f32)(const uint16_t* x, float* y, int64_t n) noexcept;
  void (*f32_to_f16)(const float* x, uint16_t* y, int64_t n) noexcept;
  void (*f16_to_f32)(const uint16_t* x, float* y, int64_t n) noexcept;

  // One row: y = gain x / sqrt(mean(x²) + epsilon) + shift, or the same on x - mean(x). shift may
  // be null.
  void (*rms_norm)(const float* x, const float* gain, const float* shift, float epsilon, int64_t n,
                   float* y) noexcept;
  void (*layer_norm)(const float* x, const float* gain, const float* shift, float epsilon,
                     int64_t n, float* y) noexcept;

  // (x[i], x[i + half]) turned by the angle whose cosine and sine are cos[i], sin[i]; i < half.
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t half) noexcept;

  float (*maximum)(const float* x, int64_t n) noexcept;  // -inf when n == 0
  // y = exp(scale x - shift); returns the sum of y. scale x - shift must not exceed 80. y may be
  // null.
  float (*exp_sum)(const float* x, int64_t n, float scale, float shift, float* y) noexcept;
  // The same with y rounded to bf16; the sum is of the unrounded values. Relative error below 1e-5.
  float (*exp_sum_bf16)(const float* x, int64_t n, float scale, float shift, uint16_t* y) noexcept;
  void (*scale)(float* x, float factor, int64_t n) noexcept;

  // y = act(x) up; up may be null, then y = act(x). silu: x σ(x). gelu_tanh: HF's tanh
  // approximation.
  void (*silu)(const float* x, const float* up, int64_t n, float* y) noexcept;
  void (*gelu_tanh)(const float* x, const float* up, int64_t n, float* y) noexcept;

  void (*add)(float* x, const float* y, int64_t n) noexcept;                    // x += y
  void (*multiply_add)(float* x, float a, const float* y, int64_t n) noexcept;  // x += a y

  // Dot products of one weight row with x, f32 sums.
  float (*dot_f32)(const float* w, const float* x, int64_t n) noexcept;
  float (*dot_bf16)(const uint16_t* w, const float* x, int64_t n) noexcept;

  // Attention of one token over f16 keys and values, rows of `stride` elements of which the first
  // head_dim count. q, out [n_queries, head_dim]; scores, weights [n_queries, n_keys].
  // scores = q keysᵀ; f32 sums.
  void (*score_keys)(const uint16_t* keys, int64_t stride, int64_t n_keys, const float* q,
                     int64_t n_queries, int64_t head_dim, float* scores) noexcept;
  // out = weights values; f32 sums over the keys in order.
  void (*weigh_values)(const uint16_t* values, int64_t stride, int64_t n_keys, const float* weights,
                       int64_t n_queries, int64_t head_dim, float* out) noexcept;
  // The same over signed bytes.
  void (*score_byte_keys)(const int8_t* keys, int64_t stride, int64_t n_keys, const float* q,
                          int64_t n_queries, int64_t head_dim, float* scores) noexcept;
  void (*weigh_byte_values)(const int8_t* values, int64_t stride, int64_t n_keys,
                            const float* weights, int64_t n_queries, int64_t head_dim,
                            float* out) noexcept;
};

extern const ForwardKernels kForwardScalar;
extern const ForwardKernels kForwardAvx2;
extern const ForwardKernels kForwardAvx512;

}  // namespace d2q
