#include "quant/block_tuner.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "model/family.h"
#include "quant/tuned_parameters.h"
#include "quant/window_order.h"

namespace d2q {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

/// The block as tuned so far.
struct BlockTuner::Candidate {
  BlockWeights weights;  // with tensors of their own where tuned
  std::array<std::optional<TunedScales>, kBlockLinears.size()> scales;
  TunedNorm attention_norm;
  TunedNorm mlp_norm;

  Candidate(Device& device, const BlockWeights& start, const TunedSolutions& solutions,
            bool tune_shifts)
      : weights(start),
        attention_norm(device, weights.attention_norm, tune_shifts),
        mlp_norm(device, weights.mlp_norm, tune_shifts) {
    for (size_t i = 0; i < kBlockLinears.size(); ++i) {
      if (solutions[i] == nullptr) continue;
      scales[i].emplace(device, *solutions[i]);
      Tensor& dense = (weights.*kBlockLinears[i].member).dense;
      dense = device.allocate(dense.rows(), dense.cols(), dense.dtype());
    }
    reconstruct();
  }
  void reconstruct() const {
    for (size_t i = 0; i < kBlockLinears.size(); ++i) {
      if (scales[i]) scales[i]->reconstruct((weights.*kBlockLinears[i].member).dense);
    }
  }
  void round() const {
    for (const auto& tuned : scales) {
      if (tuned) tuned->round();
    }
    reconstruct();
  }
  void store(BlockWeights& target, const TunedSolutions& solutions) const {
    for (size_t i = 0; i < kBlockLinears.size(); ++i) {
      if (scales[i]) scales[i]->store(*solutions[i]);
    }
    target.attention_norm = weights.attention_norm;
    target.mlp_norm = weights.mlp_norm;
  }
};

bool has_tuned_scales(const LinearSettings& settings) {
  return !settings.keep && settings.grid.kind == GridKind::kSignPlanes;
}

bool tunes_block(const QuantizeOptions& options, const ModelConfig& config, int64_t layer) {
  if (options.method != QuantMethod::kD2Quant || options.tune_steps == 0) return false;
  return std::any_of(kBlockLinears.begin(), kBlockLinears.end(), [&](const BlockLinear& linear) {
    if (linear.projection == Projection::kGate && !family_named(config.family).gated_mlp)
      return false;
    return has_tuned_scales(linear_settings(options, linear_name(config, layer, linear.name),
                                            absorbs_column_scale(config, linear.name)));
  });
}

BlockTuner::BlockTuner(Device& device, const ModelConfig& config, const RopeTables& rope,
                       const QuantizeOptions& options)
    : device_(device),
      options_(options),
      block_(device, config, rope, options.products, options.sequence_length) {}

double BlockTuner::loss_of(const Tensor& output, const Tensor& target, double unit,
                           const Tensor& gradient) const {
  const auto factor = static_cast<float>(2.0 / (unit * static_cast<double>(output.rows())));
  return device_.gradients().squared_error(output, target, factor, gradient) /
         static_cast<double>(output.size());
}

double BlockTuner::held_out_loss(const BlockWeights& weights, const TokenRows& input,
                                 const TokenRows& target) const {
  const int64_t step = options_.tune_windows * options_.sequence_length;
  const int64_t first =
      (options_.samples - held_out_windows(options_.samples)) * options_.sequence_length;
  double sum = 0.0;
  for (int64_t begin = first; begin < input.rows(); begin += step) {
    const int64_t count = std::min(step, input.rows() - begin);
    const Tensor output = block_.forward(weights, input.read(device_, begin, count)).y;
    const Tensor gradient = device_.allocate(count, input.cols(), DType::kF32);
    sum += static_cast<double>(count) *
           loss_of(output, target.read(device_, begin, count), 1.0, gradient);
  }
  return sum / static_cast<double>(input.rows() - first);
}

double BlockTuner::take_step(const Candidate& candidate, const Tensor& input, const Tensor& target,
                             double unit, int64_t step) const {
  const TuneStep at{step, options_.tune_steps};
  const BlockActivations activations = block_.forward(candidate.weights, input);
  const Tensor gradient = device_.allocate(input.rows(), input.cols(), DType::kF32);
  const double loss = loss_of(activations.y, target, unit, gradient);
  const auto scales = [&](Projection projection) -> const std::optional<TunedScales>& {
    return candidate.scales[static_cast<size_t>(projection)];
  };
  BlockGradients gradients;
  gradients.attention_norm = candidate.attention_norm.gradient();
  gradients.mlp_norm = candidate.mlp_norm.gradient();
  gradients.wants = [&](Projection projection) { return scales(projection).has_value(); };
  gradients.take = [&](Projection projection, const Tensor& d_weight, const Tensor&) {
    scales(projection)->update(d_weight, at);
  };
  block_.backward(candidate.weights, activations, gradient, gradients);
  candidate.attention_norm.update(at);
  candidate.mlp_norm.update(at);
  candidate.reconstruct();
  return loss;
}

BlockTuning BlockTuner::tune(int64_t layer, const TokenRows& input, const TokenRows& target,
                             BlockWeights& weights, const TunedSolutions& solutions,
                             const std::function<void(int64_t step, double loss)>& on_step) const {
  const Clock::time_point start = Clock::now();
  const int64_t length = options_.sequence_length;
  const int64_t n_training = options_.samples - held_out_windows(options_.samples);
  const int64_t n_windows = std::min(options_.tune_windows, n_training);
  BlockTuning result;
  result.steps = options_.tune_steps;
  result.loss_before = held_out_loss(weights, input, target);
  // Adam's epsilon then means the same for every block, however large its activations.
  const double unit = result.loss_before > 0.0 ? result.loss_before : 1.0;
  const Candidate candidate(device_, weights, solutions, options_.tune_shifts);
  // Blocks draw different windows; a resumed run draws the same.
  WindowOrder order(n_training, options_.seed ^ (static_cast<uint64_t>(layer + 1) << 32));
  const Tensor batch_input = device_.allocate(n_windows * length, input.cols(), DType::kF32);
  const Tensor batch_target = device_.allocate(n_windows * length, input.cols(), DType::kF32);
  for (int64_t step = 1; step <= options_.tune_steps; ++step) {
    for (int64_t place = 0; place < n_windows; ++place) {
      const int64_t window = order.next();
      const int64_t first = place * length;
      input.copy_to(device_, window * length, batch_input.row_range(first, length));
      target.copy_to(device_, window * length, batch_target.row_range(first, length));
    }
    const double loss = take_step(candidate, batch_input, batch_target, unit, step);
    if (on_step) on_step(step, loss);
  }
  candidate.round();
  result.loss_after = held_out_loss(candidate.weights, input, target);
  result.accepted = result.loss_after < result.loss_before;  // not with a NaN either
  if (result.accepted) candidate.store(weights, solutions);
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

}  // namespace d2q
