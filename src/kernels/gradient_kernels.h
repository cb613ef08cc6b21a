// The vectorised inner loops of the backward, one table per ISA. bf16 values travel as their bits.
// Pointers need no alignment; a result may be written over an input of the same type. The scalar
// table is the specification. Included by ISA files: <cstdint> only.
#pragma once

#include <cstdint>

namespace d2q {

struct GradientKernels {
  // d_gate = d_y up act'(gate), d_up = d_y act(gate). up may be null, then it counts as 1 and d_up
  // is not written. gelu_tanh: HF's tanh approximation.
  void (*silu)(const float* gate, const float* up, const float* d_y, int64_t n, float* d_gate,
               float* d_up) noexcept;
  void (*gelu_tanh)(const float* gate, const float* up, const float* d_y, int64_t n, float* d_gate,
                    float* d_up) noexcept;

  // One row of a softmax: p = exp(scale score - log_sum), d_score = scale p (d_p - delta).
  void (*softmax)(const float* scores, const float* d_p, int64_t n, float scale, float log_sum,
                  float delta, float* p, float* d_scores) noexcept;
  // The same with both results rounded to bf16. Relative error of p before rounding below 1e-5.
  void (*softmax_bf16)(const float* scores, const float* d_p, int64_t n, float scale, float log_sum,
                       float delta, uint16_t* p, uint16_t* d_scores) noexcept;

  // One row of ForwardKernels::rms_norm or, with `centred`, layer_norm: all three are added to.
  void (*norm)(const float* x, const float* gain, const float* d_y, bool centred, float epsilon,
               int64_t n, float* d_x, float* d_gain, float* d_shift) noexcept;
};

extern const GradientKernels kGradientScalar;
extern const GradientKernels kGradientAvx2;
extern const GradientKernels kGradientAvx512;

}  // namespace d2q
