#include "quant/end_tuner.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "quant/window_order.h"

namespace d2q {
namespace {

// Adam's moments mean little in the first steps, and all of the model's scales move at once.
constexpr int64_t kWarmUpSteps = 10;
// Of the steps of scales and gains; a shift of 1 is large beside activations of size 1.
constexpr double kShiftShare = 0.5;
// Logits of one model that the loss holds at a time: 128 MiB, enough rows to keep products busy.
constexpr int64_t kLogits = int64_t{1} << 25;

}  // namespace

bool tunes_end(const QuantizeOptions& options) {
  return options.method == QuantMethod::kD2Quant && options.end_tune_steps > 0;
}

TuneRates end_tune_rates(const QuantizeOptions& options) {
  return {options.end_tune_rate, kShiftShare * options.end_tune_rate};
}

int64_t logit_rows(int64_t vocab_size, int64_t sequence_length) {
  return std::clamp<int64_t>(kLogits / vocab_size, 1, sequence_length);
}

EndTuner::EndTuner(Device& device, const ModelConfig& config, const RopeTables& rope,
                   const QuantizeOptions& options, const TunedModel& model,
                   const EndTeacher& teacher, int64_t kept_blocks)
    : device_(device),
      config_(config),
      options_(options),
      model_(model),
      teacher_(teacher),
      kept_blocks_(kept_blocks),
      block_(device, config, rope, options.products, options.sequence_length) {}

Tensor EndTuner::embedded(std::span<const int32_t> ids, std::span<const int64_t> windows) const {
  const int64_t length = options_.sequence_length;
  std::vector<int32_t> batch;
  for (const int64_t window : windows) {
    const auto begin = ids.begin() + window * length;
    batch.insert(batch.end(), begin, begin + length);
  }
  const Tensor x =
      device_.allocate(static_cast<int64_t>(batch.size()), config_.hidden_size, DType::kF32);
  model_.embed(batch, x);
  return x;
}

double EndTuner::sum_divergence(const Tensor& x, std::span<const int64_t> windows, float factor,
                                const Tensor& d_hidden) const {
  GradientOps& ops = device_.gradients();
  const ModelHead& head = model_.head();
  const DType products = options_.products;
  const int64_t length = options_.sequence_length;
  const int64_t step = logit_rows(config_.vocab_size, length);
  const Tensor hidden = device_.allocate(x.rows(), config_.hidden_size, products);
  device_.norm(x, head.norm, hidden);
  const Tensor teacher_hidden = device_.allocate(step, config_.hidden_size, products);
  const Tensor all_logits = device_.allocate(step, config_.vocab_size, DType::kF32);
  const Tensor all_wanted = device_.allocate(step, config_.vocab_size, DType::kF32);
  double sum = 0.0;
  for (size_t place = 0; place < windows.size(); ++place) {
    for (int64_t begin = 0; begin < length; begin += step) {
      const int64_t count = std::min(step, length - begin);
      const int64_t row = static_cast<int64_t>(place) * length + begin;
      const Tensor wanted = all_wanted.row_range(0, count);
      const Tensor logits = all_logits.row_range(0, count);
      const Tensor taught = teacher_hidden.row_range(0, count);
      device_.norm(teacher_.stream.read(device_, windows[place] * length + begin, count),
                   teacher_.head.norm, taught);
      apply(device_, teacher_.head.linear, taught, wanted, products);
      apply(device_, head.linear, hidden.row_range(row, count), logits, products);
      sum += ops.divergence(wanted, logits, factor, logits);
      if (!d_hidden.empty())
        ops.linear_input(logits, head.linear.dense, d_hidden.row_range(row, count), false);
    }
  }
  return sum;
}

double EndTuner::divergence(std::span<const int32_t> ids, std::span<const int64_t> windows) const {
  const auto step = static_cast<size_t>(options_.end_tune_windows);
  double sum = 0.0;
  for (size_t begin = 0; begin < windows.size(); begin += step) {
    const auto batch = windows.subspan(begin, std::min(step, windows.size() - begin));
    Tensor x = embedded(ids, batch);
    for (int64_t layer = 0; layer < model_.n_blocks(); ++layer)
      x = block_.forward(model_.block(layer), x).y;
    sum += sum_divergence(x, batch, 1.0f, {});
  }
  return sum / static_cast<double>(static_cast<int64_t>(windows.size()) * options_.sequence_length);
}

double EndTuner::differentiate(std::span<const int32_t> ids, std::span<const int64_t> windows,
                               const Gradients& gradients) const {
  // The last blocks' are freed first by the backward.
  const int64_t first_kept = model_.n_blocks() - kept_blocks_;
  std::vector<BlockActivations> kept;
  Tensor x = embedded(ids, windows);
  for (int64_t layer = 0; layer < model_.n_blocks(); ++layer) {
    BlockActivations& block = kept.emplace_back();
    BlockActivations activations = block_.forward(model_.block(layer), x);
    block.x = x;
    x = activations.y;
    if (layer >= first_kept) block = std::move(activations);
  }
  const Tensor d_hidden = device_.allocate(x.rows(), x.cols(), DType::kF32);
  const double sum = sum_divergence(x, windows, static_cast<float>(1.0 / gradients.unit), d_hidden);
  const Tensor gradient = device_.allocate(x.rows(), x.cols(), DType::kF32);
  device_.fill_zero(gradient);
  device_.gradients().norm(x, model_.head().norm, d_hidden, gradient, gradients.final_norm.gain,
                           gradients.final_norm.shift);
  for (int64_t layer = model_.n_blocks() - 1; layer >= 0; --layer) {
    const BlockWeights& weights = model_.block(layer);
    const BlockActivations activations =
        layer >= first_kept ? std::move(kept.back()) : block_.forward(weights, kept.back().x);
    kept.pop_back();
    block_.backward(weights, activations, gradient, gradients.block(layer));
  }
  return sum / static_cast<double>(x.rows());
}

EndTuning EndTuner::tune(
    std::span<const int32_t> ids,
    const std::function<void(int64_t step, double divergence)>& on_step) const {
  const int64_t n_training = options_.samples - held_out_windows(options_.samples);
  std::vector<int64_t> held_out(static_cast<size_t>(options_.samples - n_training));
  std::iota(held_out.begin(), held_out.end(), n_training);
  EndTuning result;
  result.steps = options_.end_tune_steps;
  result.divergence_before = divergence(ids, held_out);
  // Adam's epsilon then means little whatever the model's size: a sum over tokens, not a mean.
  const double unit = result.divergence_before > 0.0 ? result.divergence_before : 1.0;
  // Other windows than the blocks' tuning draws; a resumed run draws the same.
  WindowOrder order(n_training,
                    options_.seed ^ (static_cast<uint64_t>(config_.n_layers + 1) << 32));
  std::vector<int64_t> windows(
      static_cast<size_t>(std::min(options_.end_tune_windows, n_training)));
  for (int64_t step = 1; step <= options_.end_tune_steps; ++step) {
    for (int64_t& window : windows) window = order.next();
    const TuneStep at{step, options_.end_tune_steps, kWarmUpSteps};
    const double loss = differentiate(ids, windows,
                                      {[&](int64_t layer) { return model_.gradients(layer, at); },
                                       model_.final_norm_gradient(), unit});
    model_.update_norms(at);
    if (on_step) on_step(step, loss);
  }
  model_.round();
  result.divergence_after = divergence(ids, held_out);
  result.accepted = result.divergence_after < result.divergence_before;  // not with a NaN either
  return result;
}

}  // namespace d2q
