// METHOD.md §9.2: after the last block, the scales and norms of the whole packed model tuned
// against the next-token distribution of the full-precision one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model/block_backward.h"
#include "quant/options.h"
#include "quant/token_rows.h"
#include "quant/tuned_model.h"

namespace d2q {

/// What the report says of it. Divergences are KL(full precision ‖ quantized) of the next token in
/// nats, the mean over the held-out windows: before, and after with the scales rounded to fp16.
struct EndTuning {
  int64_t steps = 0;
  double divergence_before = 0.0;
  double divergence_after = 0.0;
  bool accepted = false;  // whether it fell; else the model stays as it was
};

/// Whether the options ask for it: method d2quant, and steps.
bool tunes_end(const QuantizeOptions& options);
/// The steps' largest sizes.
TuneRates end_tune_rates(const QuantizeOptions& options);
/// Rows of logits that the loss holds at a time.
int64_t logit_rows(int64_t vocab_size, int64_t sequence_length);

/// What the full-precision model makes of the calibration windows.
struct EndTeacher {
  TokenRows stream;  // [samples * sequence_length, hidden] f32, behind its last block
  ModelHead head;
};

class EndTuner {
 public:
  /// All references must outlive the object. Of the last `kept_blocks` blocks a step keeps what the
  /// backward reads, of the others only the input: less work for more memory, the same result.
  EndTuner(Device& device, const ModelConfig& config, const RopeTables& rope,
           const QuantizeOptions& options, const TunedModel& model, const EndTeacher& teacher,
           int64_t kept_blocks);

  /// Tunes the model on `ids` [samples * sequence_length], the windows of the teacher's stream.
  /// `on_step` hears of each step, counted from 1, and its mini-batch's divergence.
  EndTuning tune(std::span<const int32_t> ids,
                 const std::function<void(int64_t step, double divergence)>& on_step) const;

  /// Mean divergence over `windows`.
  double divergence(std::span<const int32_t> ids, std::span<const int64_t> windows) const;
  /// Where the gradients of the loss's sum over tokens, in `unit`s, go.
  struct Gradients {
    std::function<BlockGradients(int64_t layer)> block;
    NormGradient final_norm;
    double unit = 1.0;
  };
  /// Forward and backward on `windows`. Returns their mean divergence.
  double differentiate(std::span<const int32_t> ids, std::span<const int64_t> windows,
                       const Gradients& gradients) const;

 private:
  Tensor embedded(std::span<const int32_t> ids, std::span<const int64_t> windows) const;
  /// Sum of the divergences behind the final norm and head; x [windows, hidden] f32 is the stream
  /// behind the last block. `d_hidden` [windows, hidden], unless empty, becomes factor · its
  /// derivative by the final norm's output.
  double sum_divergence(const Tensor& x, std::span<const int64_t> windows, float factor,
                        const Tensor& d_hidden) const;

  Device& device_;
  const ModelConfig& config_;
  const QuantizeOptions& options_;
  const TunedModel& model_;
  const EndTeacher& teacher_;
  int64_t kept_blocks_;
  BlockBackward block_;
};

}  // namespace d2q
