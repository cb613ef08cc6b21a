// The backward of a decoder block's operations, and the optimiser's step: METHOD.md §9. Shapes as
// in device.h: T = tokens, matrices row-major, f32 unless said. Gradients are of one scalar loss;
// d_x stands for its derivative by x. "+=" adds to what the tensor holds.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace d2q {

inline constexpr int kMaxTunedPlanes = 8;  // the bits of a code

/// A quantized linear whose scales are tuned, on the device, columns in stored order.
struct TunedLinear {
  Tensor codes;         // [out, in] u8; bit k set = +r_k; at most kMaxTunedPlanes planes
  Tensor params;        // [out, n_groups * planes] f32, r
  Tensor column_scale;  // [1, in] c
  int planes = 2;
  int64_t group_size = 64;  // the last group may be shorter
  int64_t n_groups() const { return (codes.cols() + group_size - 1) / group_size; }
};

/// Adam with decoupled schedule: the caller gives the step's rate.
struct AdamStep {
  float rate = 1e-3f;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  int64_t step = 1;  // counts from 1, for the bias correction
};

class GradientOps {
 public:
  virtual ~GradientOps() = default;

  /// d_x[T, in] = d_y[T, out] w, or += with `accumulate`. w [out, in] f32 or bf16 (then d_y is
  /// rounded to bf16; f32 sums). 2·T·out·in flops.
  virtual void linear_input(const Tensor& d_y, const Tensor& w, const Tensor& d_x,
                            bool accumulate) = 0;
  /// d_w[out, in] = d_yᵀ[T, out] x[T, in]. x f32 or bf16 (then d_y is rounded to bf16; f32 sums).
  virtual void linear_weight(const Tensor& d_y, const Tensor& x, const Tensor& d_w) = 0;
  /// Backward of Device::norm at x [T, n]: d_x += ...; d_gain [1, n] += ...; d_shift [1, n] += ...
  /// d_gain and d_shift may be empty; d_x is not d_y.
  virtual void norm(const Tensor& x, const NormParams& params, const Tensor& d_y, const Tensor& d_x,
                    const Tensor& d_gain, const Tensor& d_shift) = 0;
  /// Backward of Device::rope in place: the opposite rotation.
  virtual void rope(const Tensor& d_x, int64_t n_heads, std::span<const int32_t> positions,
                    const Tensor& cos, const Tensor& sin) = 0;
  /// Backward of Device::attention without a cache (past_length 0), probabilities recomputed tile
  /// by tile: no T x T matrix. q, k, v as the forward took them (f32 or bf16, rope applied); y its
  /// result; d_q, d_k, d_v f32, overwritten. `products` as in Device::attention.
  virtual void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y,
                         const Tensor& d_y, const AttentionShape& shape, const Tensor& d_q,
                         const Tensor& d_k, const Tensor& d_v, DType products) = 0;
  /// Backward of y = act(gate) ⊙ up: d_gate and d_up [T, f] overwritten.
  virtual void gated_activation(Activation act, const Tensor& gate, const Tensor& up,
                                const Tensor& d_y, const Tensor& d_gate, const Tensor& d_up) = 0;
  /// Backward of y = act(x): d_x overwritten.
  virtual void activation(Activation act, const Tensor& x, const Tensor& d_y,
                          const Tensor& d_x) = 0;
  /// d_bias [1, out] += column sums of d_y.
  virtual void column_sums(const Tensor& d_y, const Tensor& d_bias) = 0;

  /// w[out, in] = c ⊙ Σ_k ±r_k; w f32 or bf16.
  virtual void reconstruct(const TunedLinear& linear, const Tensor& w) = 0;
  /// d_params[out, n_groups * planes] = Σ over a group's columns of d_w · (±c): never another dense
  /// copy.
  virtual void scale_gradients(const TunedLinear& linear, const Tensor& d_w,
                               const Tensor& d_params) = 0;

  /// Returns Σ (y − target)² in f64 and writes d_y = factor · (y − target); y, target [T, n] f32 or
  /// bf16, d_y [T, n].
  virtual double squared_error(const Tensor& y, const Tensor& target, float factor,
                               const Tensor& d_y) = 0;
  /// Returns Σ over rows of KL(softmax(reference) ‖ softmax(logits)) in nats, summed in f64, and
  /// writes d_logits = factor · (softmax(logits) − softmax(reference)), its derivative by `logits`
  /// times factor. All [T, vocabulary]; d_logits may be `logits` itself.
  virtual double divergence(const Tensor& reference, const Tensor& logits, float factor,
                            const Tensor& d_logits) = 0;
  /// parameter −= rate · m̂ / (√v̂ + ε); first and second moments are updated. All of one shape.
  virtual void adam(const Tensor& parameter, const Tensor& gradient, const Tensor& first_moment,
                    const Tensor& second_moment, const AdamStep& step) = 0;
};

}  // namespace d2q
