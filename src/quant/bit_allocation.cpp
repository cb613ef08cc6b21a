#include "quant/bit_allocation.h"

#include <queue>
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "codec/packed_matrix.h"
#include "kernels/gradient_ops.h"
#include "kernels/host_copy.h"
#include "model/block_backward.h"
#include "model/family.h"
#include "model/input_embedding.h"
#include "quant/linear_settings.h"
#include "quant/solve.h"

namespace d2q {
namespace {

/// Beyond 4 bits a linear's rounding is no longer what limits a model of 2 or 3.
constexpr int kMostBits = 4;

/// The block's output for the tokens `x`, which stay as they are.
class BlockOutput {
 public:
  BlockOutput(Device& device, const ModelConfig& config, const RopeTables& rope,
              const QuantizeOptions& options, int64_t n_tokens)
      : device_(device),
        stages_(device, config, rope, options.products),
        sequence_length_(options.sequence_length),
        input_(device.allocate(n_tokens, config.hidden_size, options.products)),
        attention_(device.allocate(n_tokens, config.n_heads * config.head_dim, options.products)),
        hidden_(device.allocate(n_tokens, config.intermediate_size, options.products)) {}

  void operator()(const BlockWeights& weights, const Tensor& x, const Tensor& y) const {
    device_.convert(x, y);
    stages_.forward(weights, y, sequence_length_, {input_, attention_, input_, hidden_});
  }

 private:
  Device& device_;
  BlockStages stages_;
  int64_t sequence_length_;
  Tensor input_, attention_, hidden_;
};

/// `weight` rounded to the nearest of `bits`' uniform levels, in groups.
Tensor rounded(Device& device, const Tensor& weight, int bits, int64_t group_size, DType dtype) {
  const Grid grid{GridKind::kUniform, bits, false};
  return in_dtype(
      device, InputSetSolver(device, weight.cols()).solve(weight, grid, group_size).weight, dtype);
}

}  // namespace

std::map<std::string, int> allocate_bits(std::span<const LinearSensitivity> linears,
                                         double target_bits) {
  double used = 0.0;
  double n_weights = 0.0;
  for (const LinearSensitivity& linear : linears) {
    D2Q_CHECK(!linear.choices.empty(), "{}: no choice of bits", linear.name);
    used += static_cast<double>(linear.choices.front().packed_bits);
    n_weights += static_cast<double>(linear.n_weights);
  }
  const double budget = target_bits * n_weights;
  if (used > budget) {
    fail(ErrorCode::kInvalidArgument,
         "--target-bits {}: the fewest bits that the other options allow are {:.4g} a weight, "
         "scales "
         "included; larger groups (--group) take less",
         target_bits, used / n_weights);
  }
  // Fall of error for a bit; the linear, negative so that the first wins a tie.
  using Step = std::tuple<double, int64_t>;
  std::priority_queue<Step> steps;
  std::vector<size_t> chosen(linears.size(), 0);
  const auto offer = [&](size_t i) {
    const std::vector<BitChoice>& choices = linears[i].choices;
    if (chosen[i] + 1 == choices.size()) return;
    const BitChoice& from = choices[chosen[i]];
    const BitChoice& to = choices[chosen[i] + 1];
    steps.emplace((from.error - to.error) / static_cast<double>(to.packed_bits - from.packed_bits),
                  -static_cast<int64_t>(i));
  };
  for (size_t i = 0; i < linears.size(); ++i) offer(i);
  while (!steps.empty()) {
    const auto i = static_cast<size_t>(-std::get<1>(steps.top()));
    steps.pop();
    const std::vector<BitChoice>& choices = linears[i].choices;
    const auto cost =
        static_cast<double>(choices[chosen[i] + 1].packed_bits - choices[chosen[i]].packed_bits);
    if (used + cost > budget) continue;
    used += cost;
    ++chosen[i];
    offer(i);
  }
  std::map<std::string, int> bits;
  for (size_t i = 0; i < linears.size(); ++i)
    bits[linears[i].name] = linears[i].choices[chosen[i]].bits;
  return bits;
}

std::vector<LinearSensitivity> measure_sensitivity(
    Device& device, const WeightSource& source, const QuantizeOptions& options,
    const RopeTables& rope, std::span<const int32_t> ids,
    const std::function<void(int64_t layer)>& on_block) {
  const ModelConfig& config = source.config();
  const Family& family = family_named(config.family);
  const auto n_tokens = static_cast<int64_t>(ids.size());
  const auto f32 = [&] { return device.allocate(n_tokens, config.hidden_size, DType::kF32); };
  Tensor x = f32();
  Tensor y = f32();
  const Tensor candidate = f32();
  const Tensor normed = f32();
  const Tensor reference = f32();
  const Tensor scratch = f32();
  InputEmbedding(device, source, DType::kF32).embed(device, ids, options.sequence_length, 0, x);
  NormParams norm{
      family.norm,
      to_device(device, std::vector<float>(static_cast<size_t>(config.hidden_size), 1.0f), 1,
                config.hidden_size),
      Tensor{}, static_cast<float>(config.norm_epsilon)};
  const BlockOutput block_output(device, config, rope, options, n_tokens);
  std::vector<LinearSensitivity> result;
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    if (on_block) on_block(layer);
    const BlockWeights exact = load_block(device, source, layer, DType::kF32);
    const BlockWeights fp = in_dtype(device, exact, options.products);
    block_output(fp, x, y);
    device.norm(y, norm, reference);
    for (const BlockLinear& linear : kBlockLinears) {
      if (linear.projection == Projection::kGate && !family.gated_mlp) continue;
      LinearSensitivity entry;
      entry.name = linear_name(config, layer, linear.name);
      const bool is_down = absorbs_column_scale(config, linear.name);
      LinearSettings settings = linear_settings(options, entry.name, is_down);
      if (settings.keep) continue;
      const Tensor& weight = (exact.*linear.member).dense;
      entry.n_weights = weight.size();
      const auto choose = [&](int bits, double error) {
        settings.grid = grid_of(options, bits, is_down);
        const PackedLayout layout = packed_layout(settings, weight.rows(), weight.cols());
        entry.choices.push_back({bits, 8 * packed_bytes(layout), error});
      };
      const auto error_at = [&](int bits) {
        BlockWeights changed = fp;
        (changed.*linear.member).dense =
            rounded(device, weight, bits, settings.group_size, options.products);
        block_output(changed, x, candidate);
        device.norm(candidate, norm, normed);
        return device.gradients().squared_error(normed, reference, 0.0f, scratch) /
               static_cast<double>(normed.size());
      };
      const int fewest = settings.grid.bits;
      if (settings.bits_overridden || fewest >= kMostBits) {
        choose(fewest, 0.0);
      } else {
        double error = error_at(fewest);
        double next = error_at(fewest + 1);
        const double ratio = error > 0.0 ? next / error : 0.0;
        choose(fewest, error);
        for (int bits = fewest + 1; bits <= kMostBits; ++bits, next *= ratio) choose(bits, next);
      }
      result.push_back(std::move(entry));
    }
    std::swap(x, y);
  }
  return result;
}

}  // namespace d2q
