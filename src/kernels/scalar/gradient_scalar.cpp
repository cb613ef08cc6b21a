// The specification of the backward's inner loops, written for reading.
#include <cmath>

#include "base/half.h"
#include "kernels/gradient_kernels.h"

namespace d2q {
namespace {

void silu(const float* gate, const float* up, const float* d_y, int64_t n, float* d_gate,
          float* d_up) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const float x = gate[i], gradient = d_y[i], factor = up != nullptr ? up[i] : 1.0f;
    const float sigmoid = 1.0f / (1.0f + std::exp(-x));
    if (up != nullptr) d_up[i] = gradient * x * sigmoid;
    d_gate[i] = gradient * factor * (sigmoid + x * sigmoid * (1.0f - sigmoid));
  }
}

void gelu_tanh(const float* gate, const float* up, const float* d_y, int64_t n, float* d_gate,
               float* d_up) noexcept {
  constexpr float kRootTwoOverPi = 0.7978845608028654f;
  for (int64_t i = 0; i < n; ++i) {
    const float x = gate[i], gradient = d_y[i], factor = up != nullptr ? up[i] : 1.0f;
    const float t = std::tanh(kRootTwoOverPi * (x + 0.044715f * x * x * x));
    const float inner_slope = kRootTwoOverPi * (1.0f + 3.0f * 0.044715f * x * x);
    if (up != nullptr) d_up[i] = gradient * 0.5f * x * (1.0f + t);
    d_gate[i] = gradient * factor * (0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner_slope);
  }
}

void softmax(const float* scores, const float* d_p, int64_t n, float scale, float log_sum,
             float delta, float* p, float* d_scores) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const float probability = std::exp(scale * scores[i] - log_sum);
    const float slope = probability * scale * (d_p[i] - delta);
    p[i] = probability;
    d_scores[i] = slope;
  }
}

void softmax_bf16(const float* scores, const float* d_p, int64_t n, float scale, float log_sum,
                  float delta, uint16_t* p, uint16_t* d_scores) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const float probability = std::exp(scale * scores[i] - log_sum);
    p[i] = to_bfloat16(probability).bits;
    d_scores[i] = to_bfloat16(probability * scale * (d_p[i] - delta)).bits;
  }
}

void norm(const float* x, const float* gain, const float* d_y, bool centred, float epsilon,
          int64_t n, float* d_x, float* d_gain, float* d_shift) noexcept {
  const auto count = static_cast<float>(n);
  float mean = 0.0f, variance = 0.0f;
  if (centred) {
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= count;
  }
  for (int64_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float factor = 1.0f / std::sqrt(variance / count + epsilon);
  float along = 0.0f, level = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    along += gain[i] * d_y[i] * (x[i] - mean) * factor;
    level += gain[i] * d_y[i];
  }
  along /= count;
  level = centred ? level / count : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float normal = (x[i] - mean) * factor, gradient = d_y[i];
    d_x[i] += factor * (gain[i] * gradient - level - normal * along);
    d_gain[i] += gradient * normal;
    d_shift[i] += gradient;
  }
}

}  // namespace

const GradientKernels kGradientScalar = {silu, gelu_tanh, softmax, softmax_bf16, norm};

}  // namespace d2q
