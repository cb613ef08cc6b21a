// An in-memory model with random weights, for tests.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/rng.h"
#include "model/family.h"
#include "model/weight_source.h"

namespace d2q::test {

class FakeWeights final : public WeightSource {
 public:
  /// Fills every tensor that the family's table names, and the biases that it asks for; parts of
  /// fused matrices under their own names.
  explicit FakeWeights(ModelConfig config) : config_(std::move(config)) {
    const Family& family = family_named(config_.family);
    const ModuleNames& names = family.modules;
    const int64_t hidden = config_.hidden_size, mlp = config_.intermediate_size;
    const int64_t q = config_.n_heads * config_.head_dim,
                  kv = config_.n_kv_heads * config_.head_dim;
    const bool biased = family.linear_bias;
    add(names.embedding, 0, config_.vocab_size, hidden);
    add(names.positions, 0, config_.max_positions + family.position_offset, hidden);
    if (!config_.tied_embeddings) add(names.head, 0, config_.vocab_size, hidden);
    add_norm(names.final_norm, 0, hidden);
    for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
      add_norm(names.attention_norm, layer, hidden);
      add(names.q, layer, q, hidden, family.qkv_bias);
      add(names.k, layer, kv, hidden, family.qkv_bias);
      add(names.v, layer, kv, hidden, family.qkv_bias);
      add(names.o, layer, hidden, q, biased);
      add(names.q_norm, layer, 1, config_.head_dim);
      add(names.k_norm, layer, 1, config_.head_dim);
      add_norm(names.mlp_norm, layer, hidden);
      add(names.gate, layer, mlp, hidden);
      add(names.up, layer, mlp, hidden, biased);
      add(names.down, layer, hidden, mlp, biased);
    }
  }

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return "fake"; }
  bool has(const std::string& name) const override { return tensors_.contains(name); }
  Matrix<float> load(const std::string& name) const override {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail(ErrorCode::kNotFound, "fake weights: no tensor '{}'", name);
    return found->second.clone();
  }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }
  /// To damage.
  Matrix<float>& tensor(const std::string& name) { return tensors_.at(name); }

 private:
  void add(const ModuleName& module, int64_t layer, int64_t rows, int64_t cols,
           bool biased = false) {
    if (module.hf.empty()) return;
    const std::string name = module_name(module.hf, layer);
    tensors_[name + ".weight"] = random(rows, cols, rows == 1 ? 1.0 : 0.0);
    if (biased) tensors_[name + ".bias"] = random(1, rows, 0.0);
  }

  void add_norm(const ModuleName& module, int64_t layer, int64_t width) {
    add(module, layer, 1, width);
    if (family_named(config_.family).norm != NormKind::kLayer) return;
    tensors_[module_name(module.hf, layer) + ".bias"] = random(1, width, 0.0);
  }

  Matrix<float> random(int64_t rows, int64_t cols, double mean) {
    Matrix<float> result(rows, cols);
    const double deviation = rows == 1 ? 0.2 : 1.0 / std::sqrt(static_cast<double>(cols));
    for (float& value : result.span())
      value = static_cast<float>(mean + deviation * rng_.gaussian());
    return result;
  }

  ModelConfig config_;
  Rng rng_{7};
  std::map<std::string, Matrix<float>> tensors_;
};

/// A model of two small layers with grouped heads.
inline ModelConfig small_config(const std::string& family = "llama") {
  ModelConfig config;
  config.family = family;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.n_layers = 2;
  config.n_heads = 6;
  config.n_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 90;
  config.max_positions = 64;
  if (family == "opt") {
    config.n_heads = config.n_kv_heads = 3;
    config.activation = Activation::kRelu;
  }
  return config;
}

}  // namespace d2q::test
