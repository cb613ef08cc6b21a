// What METHOD.md §9 tunes, on the device, with the state of its optimiser.
#pragma once

#include <cstdint>

#include "kernels/gradient_ops.h"
#include "model/block_backward.h"
#include "quant/solve.h"

namespace d2q {

/// Where tuning stands: `step` counts from 1; rates fall linearly to 0 behind the last one.
struct TuneStep {
  int64_t step = 1;
  int64_t n_steps = 1;
};

/// A tensor that Adam moves.
class AdamParameter {
 public:
  /// `rate` is the first step's. The tensor is moved in place.
  AdamParameter(Device& device, Tensor value, double rate);
  const Tensor& value() const noexcept { return value_; }
  void update(const Tensor& gradient, const TuneStep& at) const;

 private:
  Device& device_;
  Tensor value_;
  Tensor first_moment_;
  Tensor second_moment_;
  double rate_;
};

/// The scales of a linear of sign planes as r·(1 + δ).
class TunedScales {
 public:
  /// The solution's column scale must be absorbed.
  TunedScales(Device& device, const LinearSolution& solution);
  /// weight [out, in], f32 or bf16, of the scales as they stand.
  void reconstruct(const Tensor& weight) const;
  /// One step of δ from d_weight [out, in], the loss's derivative by the weight.
  void update(const Tensor& d_weight, const TuneStep& at) const;
  /// Rounds the scales to fp16, which is what will be stored. Ends the tuning.
  void round() const;
  /// Puts the scales into `solution`, the one of the constructor. A scale that became negative
  /// flips its plane's codes.
  void store(LinearSolution& solution) const;

 private:
  Device& device_;
  TunedLinear linear_;    // params = start_ ⊙ factor_
  Tensor start_;          // [out, n_groups * planes], >= 0
  AdamParameter factor_;  // 1 + δ
};

/// Gain and shift of a norm.
class TunedNorm {
 public:
  /// `params` get tensors of their own, which are tuned in place; a missing shift starts at 0.
  /// Without `tune_shift` the shift stays as it is, or missing.
  TunedNorm(Device& device, NormParams& params, bool tune_shift = true);
  /// Both sums, for BlockBackward to add to.
  const NormGradient& gradient() const noexcept { return gradient_; }
  /// One step from gradient(), which is 0 again afterwards.
  void update(const TuneStep& at) const;

 private:
  Device& device_;
  bool tune_shift_;
  AdamParameter gain_;
  AdamParameter shift_;
  NormGradient gradient_;
};

}  // namespace d2q
