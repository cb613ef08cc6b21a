// METHOD.md §9: a quantized block's scales and norms, codes fixed, tuned against what the
// full-precision block puts out.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "model/block_backward.h"
#include "quant/linear_settings.h"
#include "quant/options.h"
#include "quant/solve.h"
#include "quant/token_rows.h"

namespace d2q {

/// What the report says of a block's tuning. Losses are the mean squared error of the block's
/// output on the held-out windows: before it, and after it with the scales rounded to fp16.
struct BlockTuning {
  int64_t steps = 0;
  double loss_before = 0.0;
  double loss_after = 0.0;
  bool accepted = false;  // whether it fell; else the block stays as it was
  double seconds = 0.0;
};

/// Whether a linear with these settings has scales to tune.
bool has_tuned_scales(const LinearSettings& settings);
/// Whether the options tune block `layer`: method d2quant, and a linear of sign planes in it.
bool tunes_block(const QuantizeOptions& options, const ModelConfig& config, int64_t layer);

/// By Projection; null for linears that stay as they are. Column scales are absorbed.
using TunedSolutions = std::array<LinearSolution*, kBlockLinears.size()>;

class BlockTuner {
 public:
  /// All references must outlive the object.
  BlockTuner(Device& device, const ModelConfig& config, const RopeTables& rope,
             const QuantizeOptions& options);

  /// input, target [samples * sequence_length, hidden] f32: the quantized stream before the block
  /// and the full-precision one behind it. `weights` are dense, as they will be stored. When the
  /// held-out loss falls, `solutions` get their scales, whose dense weights are then the caller's
  /// to renew, and `weights` their norms; else both stay as they are. `on_step` hears of each step,
  /// counted from 1, and its mini-batch's loss.
  BlockTuning tune(int64_t layer, const TokenRows& input, const TokenRows& target,
                   BlockWeights& weights, const TunedSolutions& solutions,
                   const std::function<void(int64_t step, double loss)>& on_step) const;

 private:
  struct Candidate;

  /// Mean squared error; `gradient` [rows, hidden] becomes the derivative by the output of its sum
  /// over channels, in `unit`s.
  double loss_of(const Tensor& output, const Tensor& target, double unit,
                 const Tensor& gradient) const;
  double held_out_loss(const BlockWeights& weights, const TokenRows& input,
                       const TokenRows& target) const;
  double take_step(const Candidate& candidate, const Tensor& input, const Tensor& target,
                   double unit, int64_t step) const;

  Device& device_;
  const QuantizeOptions& options_;
  BlockBackward block_;
};

}  // namespace d2q
