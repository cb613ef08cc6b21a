// What METHOD.md §9 tunes, on the device, with the state of its optimiser.
#pragma once

#include <cstdint>

#include "kernels/gradient_ops.h"
#include "model/block_backward.h"
#include "quant/solve.h"

namespace d2q {

/// Where tuning stands: `step` counts from 1; rates rise over the first `warm_up` steps and fall
/// linearly to 0 behind the last one.
struct TuneStep {
  int64_t step = 1;
  int64_t n_steps = 1;
  int64_t warm_up = 1;
};

/// The largest steps.
struct TuneRates {
  double scale = 5e-3;  // of factors on scales, and of gains about 1
  double shift = 1e-3;
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

/// The scales of a quantized linear times a factor 1 + δ: one for each row, group and plane of sign
/// planes; on a uniform grid one for each row and group, the zero staying as it is.
class TunedScales {
 public:
  /// Whether linears of this layout can be tuned: all but uniform grids of 8 bits.
  static bool takes(const PackedLayout& layout);
  /// takes(solution.layout), and its column scale must be absorbed.
  TunedScales(Device& device, const LinearSolution& solution, const TuneRates& rates = {});
  /// weight [out, in], f32 or bf16, of the scales as they stand.
  void reconstruct(const Tensor& weight) const;
  /// One step of δ from d_weight [out, in], the loss's derivative by the weight.
  void update(const Tensor& d_weight, const TuneStep& at) const;
  /// Rounds the scales to fp16, which is what will be stored. Ends the tuning.
  void round() const;
  /// Puts the scales into `solution`, the one of the constructor. A scale of sign planes that
  /// became negative flips its plane's codes.
  void store(LinearSolution& solution) const;

 private:
  /// Of a uniform grid, whose planes share a factor.
  bool is_shared() const { return !ones_.empty(); }
  Tensor allocate_params() const;
  /// params = start_ ⊙ the factors.
  void apply_factor() const;

  Device& device_;
  TunedLinear linear_;
  Tensor start_;          // [out, n_groups * planes], >= 0
  Tensor ones_;           // [planes] where the planes share a factor
  AdamParameter factor_;  // 1 + δ, [out, n_groups * planes] or [out * n_groups, 1]
};

/// Gain and shift of a norm.
class TunedNorm {
 public:
  /// `params` get tensors of their own, which are tuned in place; a missing shift starts at 0.
  /// Without `tune_shift` the shift stays as it is, or missing.
  TunedNorm(Device& device, NormParams& params, bool tune_shift = true,
            const TuneRates& rates = {});
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
