// The specification of the forward's inner loops, written for reading.
#include <cmath>
#include <limits>

#include "base/half.h"
#include "kernels/forward_kernels.h"

namespace d2q {
namespace {

void f32_to_bf16(const float* x, uint16_t* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = to_bfloat16(x[i]).bits;
}

void bf16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = to_float(BFloat16{x[i]});
}

void f32_to_f16(const float* x, uint16_t* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = to_half(x[i]).bits;
}

void f16_to_f32(const uint16_t* x, float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = to_float(Half{x[i]});
}

void normalise(const float* x, float mean, const float* gain, const float* shift, float epsilon,
               int64_t n, float* y) {
  float variance = 0.0f;
  for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / std::sqrt(variance / static_cast<float>(n) + epsilon);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = gain[i] * ((x[i] - mean) * factor) + (shift != nullptr ? shift[i] : 0.0f);
  }
}

void rms_norm(const float* x, const float* gain, const float* shift, float epsilon, int64_t n,
              float* y) noexcept {
  normalise(x, 0.0f, gain, shift, epsilon, n, y);
}

void layer_norm(const float* x, const float* gain, const float* shift, float epsilon, int64_t n,
                float* y) noexcept {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  normalise(x, sum / static_cast<float>(n), gain, shift, epsilon, n, y);
}

void rotate(float* x, const float* cos, const float* sin, int64_t half) noexcept {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

float maximum(const float* x, int64_t n) noexcept {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

float exp_sum(const float* x, int64_t n, float scale, float shift, float* y) noexcept {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float value = std::exp(scale * x[i] - shift);
    if (y != nullptr) y[i] = value;
    sum += value;
  }
  return sum;
}

float exp_sum_bf16(const float* x, int64_t n, float scale, float shift, uint16_t* y) noexcept {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float value = std::exp(scale * x[i] - shift);
    y[i] = to_bfloat16(value).bits;
    sum += value;
  }
  return sum;
}

void scale(float* x, float factor, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void silu(const float* x, const float* up, int64_t n, float* y) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = x[i] / (1.0f + std::exp(-x[i])) * (up != nullptr ? up[i] : 1.0f);
  }
}

void gelu_tanh(const float* x, const float* up, int64_t n, float* y) noexcept {
  constexpr float kRootTwoOverPi = 0.7978845608028654f;
  for (int64_t i = 0; i < n; ++i) {
    const float u = kRootTwoOverPi * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
    y[i] = 0.5f * x[i] * (1.0f + std::tanh(u)) * (up != nullptr ? up[i] : 1.0f);
  }
}

void add(float* x, const float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void multiply_add(float* x, float a, const float* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) x[i] += a * y[i];
}

float dot_f32(const float* w, const float* x, int64_t n) noexcept {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) sum += w[i] * x[i];
  return sum;
}

float dot_bf16(const uint16_t* w, const float* x, int64_t n) noexcept {
  float sum = 0.0f;
  for (int64_t i = 0; i < n; ++i) sum += to_float(BFloat16{w[i]}) * x[i];
  return sum;
}

float cached(uint16_t half) { return to_float(Half{half}); }
float cached(int8_t byte) { return static_cast<float>(byte); }

template <typename T>
void score_keys(const T* keys, int64_t stride, int64_t n_keys, const float* q, int64_t n_queries,
                int64_t head_dim, float* scores) noexcept {
  for (int64_t j = 0; j < n_queries; ++j) {
    for (int64_t key = 0; key < n_keys; ++key) {
      float sum = 0.0f;
      for (int64_t i = 0; i < head_dim; ++i)
        sum += cached(keys[key * stride + i]) * q[j * head_dim + i];
      scores[j * n_keys + key] = sum;
    }
  }
}

template <typename T>
void weigh_values(const T* values, int64_t stride, int64_t n_keys, const float* weights,
                  int64_t n_queries, int64_t head_dim, float* out) noexcept {
  for (int64_t j = 0; j < n_queries; ++j) {
    for (int64_t i = 0; i < head_dim; ++i) {
      float sum = 0.0f;
      for (int64_t key = 0; key < n_keys; ++key)
        sum += cached(values[key * stride + i]) * weights[j * n_keys + key];
      out[j * head_dim + i] = sum;
    }
  }
}

}  // namespace

const ForwardKernels kForwardScalar = {
    "scalar",   f32_to_bf16,  bf16_to_f32, f32_to_f16,   f16_to_f32,   rms_norm,
    layer_norm, rotate,       maximum,     exp_sum,      exp_sum_bf16, scale,
    silu,       gelu_tanh,    add,         multiply_add, dot_f32,      dot_bf16,
    score_keys, weigh_values, score_keys,  weigh_values};

}  // namespace d2q
