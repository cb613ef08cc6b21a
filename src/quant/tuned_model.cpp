#include "quant/tuned_model.h"

#include <algorithm>
#include <string>

#include "format/packed_container.h"
#include "model/family.h"
#include "model/load_weights.h"
#include "quant/block_quantizer.h"

namespace d2q {

ModelHead load_head(Device& device, const WeightSource& source, DType products) {
  const Family& family = family_named(source.config().family);
  const ModuleNames& modules = family.modules;
  const ModuleName& linear = source.config().tied_embeddings ? modules.embedding : modules.head;
  return {load_norm(device, source, std::string(modules.final_norm.hf), family.norm),
          densify(device, load_linear(device, source, std::string(linear.hf), products), products)};
}

TunedModel::TunedModel(Device& device, ThreadPool& pool, const WeightSource& stored,
                       const QuantizeOptions& options, const TuneRates& rates)
    : device_(device),
      pool_(pool),
      stored_(stored),
      options_(options),
      embedding_(device, stored, DType::kF16),
      blocks_(static_cast<size_t>(stored.config().n_layers)),
      head_(load_head(device, stored, options.products)) {
  for (int64_t layer = 0; layer < n_blocks(); ++layer) {
    Block& block = blocks_[static_cast<size_t>(layer)];
    block.weights = load_block(device, stored, layer, options.products);
    for (const BlockLinear& linear : kBlockLinears) load_linear_of(block, layer, linear, rates);
    block.attention_norm.emplace(device, block.weights.attention_norm, options.tune_shifts, rates);
    block.mlp_norm.emplace(device, block.weights.mlp_norm, options.tune_shifts, rates);
  }
  final_norm_.emplace(device, head_.norm, options.tune_shifts && options.final_correction, rates);
}

std::string TunedModel::weight_name(int64_t layer, const BlockLinear& linear) const {
  return linear_name(stored_.config(), layer, linear.name) + ".weight";
}

LinearSolution TunedModel::stored_solution(int64_t layer, const BlockLinear& linear) const {
  return unpack_solution(*stored_.packed(weight_name(layer, linear)), pool_);
}

void TunedModel::load_linear_of(Block& block, int64_t layer, const BlockLinear& linear,
                                const TuneRates& rates) {
  Linear& target = block.weights.*linear.member;
  const auto index = static_cast<size_t>(linear.projection);
  if (!target.packed || !TunedScales::takes(target.packed->layout)) {
    target = densify(device_, target, options_.products);
    return;
  }
  const PackedLayout layout = target.packed->layout;
  target.packed.reset();
  block.scales[index].emplace(device_, stored_solution(layer, linear), rates);
  Tensor& dense = dense_[index];
  if (dense.empty()) dense = device_.allocate(layout.rows, layout.cols, options_.products);
  target.dense = dense;
}

void TunedModel::embed(std::span<const int32_t> ids, const Tensor& x) const {
  embedding_.embed(device_, ids, options_.sequence_length, 0, x);
}

const BlockWeights& TunedModel::block(int64_t layer) const {
  const Block& block = blocks_[static_cast<size_t>(layer)];
  for (size_t i = 0; i < kBlockLinears.size(); ++i) {
    if (block.scales[i]) block.scales[i]->reconstruct(dense_[i]);
  }
  return block.weights;
}

BlockGradients TunedModel::gradients(int64_t layer, const TuneStep& at) const {
  const Block& block = blocks_[static_cast<size_t>(layer)];
  BlockGradients gradients;
  gradients.attention_norm = block.attention_norm->gradient();
  gradients.mlp_norm = block.mlp_norm->gradient();
  gradients.wants = [&block](Projection projection) {
    return block.scales[static_cast<size_t>(projection)].has_value();
  };
  gradients.take = [&block, at](Projection projection, const Tensor& d_weight, const Tensor&) {
    block.scales[static_cast<size_t>(projection)]->update(d_weight, at);
  };
  return gradients;
}

void TunedModel::update_norms(const TuneStep& at) const {
  for (const Block& block : blocks_) {
    block.attention_norm->update(at);
    block.mlp_norm->update(at);
  }
  final_norm_->update(at);
}

void TunedModel::round() const {
  for (const Block& block : blocks_) {
    for (const auto& scales : block.scales) {
      if (scales) scales->round();
    }
  }
}

std::vector<std::vector<ShardTensor>> TunedModel::changed_tensors() const {
  const ModuleNames& modules = family_named(stored_.config().family).modules;
  std::vector<std::vector<ShardTensor>> shards;
  for (int64_t layer = 0; layer < n_blocks(); ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    std::vector<ShardTensor>& tensors = shards.emplace_back();
    add_norm(device_, module_name(modules.attention_norm.hf, layer), block.weights.attention_norm,
             tensors);
    add_norm(device_, module_name(modules.mlp_norm.hf, layer), block.weights.mlp_norm, tensors);
    for (const BlockLinear& linear : kBlockLinears) {
      const auto& scales = block.scales[static_cast<size_t>(linear.projection)];
      if (!scales) continue;
      LinearSolution solution = stored_solution(layer, linear);
      scales->store(solution);
      const PackedLinear packed = pack_solution(solution, pool_);
      const std::string name = weight_name(layer, linear);
      const std::vector<SafetensorsSpec> specs = packed_specs(name, packed.layout);
      // Only a scale whose sign has changed turns codes around.
      if (!std::ranges::equal(packed.codes, stored_.packed(name)->codes))
        tensors.push_back({specs[0], to_bytes(std::span<const uint8_t>(packed.codes))});
      tensors.push_back({specs[1], to_bytes(std::span<const Half>(packed.scales))});
    }
  }
  add_norm(device_, std::string(modules.final_norm.hf), head_.norm, shards.emplace_back());
  return shards;
}

}  // namespace d2q
