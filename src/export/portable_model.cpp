#include "export/portable_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "model/family.h"
#include "model/fused_modules.h"
#include "model/shifted_bias.h"

namespace d2q {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

std::string with(const std::string& module, std::string_view suffix) {
  return module + std::string(suffix);
}

const char* to_string(ExportTarget target) {
  return target == ExportTarget::kGguf ? "llama.cpp" : "transformers";
}

/// Which linears of a family can take a bias beside those that they have.
struct BiasPlaces {
  bool attention = false;
  bool mlp = false;
};

BiasPlaces bias_places(const Family& family, ExportTarget target) {
  if (target == ExportTarget::kGguf)
    return {family.gguf_biases || family.qkv_bias, family.gguf_biases};
  return {family.qkv_bias || *family.bias_switches.attention != '\0',
          *family.bias_switches.mlp != '\0'};
}

}  // namespace

PortableModel::PortableModel(std::shared_ptr<const WeightSource> source, ExportTarget target,
                             bool drop_shifts)
    : source_(std::move(source)), config_(source_->config()) {
  const Family& family = family_named(config_.family);
  if (target == ExportTarget::kGguf && family.gguf_architecture.empty()) {
    fail(ErrorCode::kUnsupported, "family '{}' has no architecture in llama.cpp; use --to hf",
         family.name);
  }
  place_shifts(target, drop_shifts);
  list_tensors();
}

bool PortableModel::has_shift(const std::string& norm) const {
  const std::string name = with(norm, kBias);
  if (!source_->has(name)) return false;
  const Matrix<float> shift = source_->load(name);
  return std::any_of(shift.span().begin(), shift.span().end(), [](float v) { return v != 0.0f; });
}

void PortableModel::place_shifts(ExportTarget target, bool drop_shifts) {
  const Family* family = &family_named(config_.family);
  const ModuleNames& m = family->modules;
  if (family->norm == NormKind::kLayer) return;  // its norms have shifts of their own
  std::vector<std::string> attention;
  std::vector<std::string> mlp;
  for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
    const auto module = [&](const ModuleName& name) { return module_name(name.hf, layer); };
    if (has_shift(module(m.attention_norm))) attention.push_back(module(m.attention_norm));
    if (has_shift(module(m.mlp_norm))) mlp.push_back(module(m.mlp_norm));
    for (const ModuleName& name : {m.q, m.k, m.v, m.o})
      attention_bias_ = attention_bias_ || source_->has(with(module(name), kBias));
    for (const ModuleName& name : {m.gate, m.up, m.down})
      mlp_bias_ = mlp_bias_ || source_->has(with(module(name), kBias));
  }
  const bool wants_biases =
      !attention.empty() || !mlp.empty() || mlp_bias_ || (attention_bias_ && !family->qkv_bias);
  if (target == ExportTarget::kHuggingFace && wants_biases && config_.sliding_window == 0 &&
      !family->biased_twin.empty()) {
    config_.family = family->biased_twin;
    family = &family_named(config_.family);
  }
  const BiasPlaces places = bias_places(*family, target);
  if ((mlp_bias_ && !places.mlp) || (attention_bias_ && !places.attention)) {
    fail(ErrorCode::kUnsupported,
         "the model's linears have biases, which {} has no place for in {}", family->name,
         to_string(target));
  }
  const auto place = [&](const std::vector<std::string>& norms, bool has_place, bool& biased) {
    std::vector<std::string>& list = has_place ? moved_ : dropped_;
    list.insert(list.end(), norms.begin(), norms.end());
    biased = biased || (has_place && !norms.empty());
  };
  place(attention, places.attention, attention_bias_);
  place(mlp, places.mlp, mlp_bias_);
  const std::string final_norm(m.final_norm.hf);
  if (has_shift(final_norm)) dropped_.push_back(final_norm);
  if (dropped_.empty() || drop_shifts) return;
  const bool only_final = dropped_.size() == 1 && dropped_[0] == final_norm;
  fail(ErrorCode::kUnsupported,
       "{} in {} has no place for the shift of {} norm{} ({}{}); quantize with {}, or pass "
       "--drop-shifts to leave them out",
       family->name, to_string(target), dropped_.size(), dropped_.size() == 1 ? "" : "s",
       dropped_[0], dropped_.size() == 1 ? "" : ", ...",
       only_final ? "--no-final-dac" : "--no-dac --no-shift");
}

void PortableModel::add_norm(const std::string& module, int64_t width) {
  tensors_.push_back({with(module, kWeight), {width}});
  if (family_named(config_.family).norm == NormKind::kLayer)
    tensors_.push_back({with(module, kBias), {width}});
}

void PortableModel::add_linear(const std::string& module, int64_t rows, int64_t cols, bool biased) {
  tensors_.push_back({with(module, kWeight), {rows, cols}});
  if (biased) tensors_.push_back({with(module, kBias), {rows}});
}

void PortableModel::list_tensors() {
  const Family& family = family_named(config_.family);
  const ModuleNames& m = family.modules;
  const int64_t hidden = config_.hidden_size;
  const int64_t query = config_.n_heads * config_.head_dim;
  const int64_t key = config_.n_kv_heads * config_.head_dim;
  const int64_t inner = config_.intermediate_size;
  const bool all = family.linear_bias;
  const bool qkv_bias = all || family.qkv_bias || attention_bias_;
  // A switch in config.json gives biases to every linear of its half; a family's own q, k and v
  // biases stand alone.
  const bool o_bias = all || (attention_bias_ && !family.qkv_bias);
  const bool mlp_bias = all || mlp_bias_;
  add_linear(std::string(m.embedding.hf), config_.vocab_size, hidden, false);
  if (!m.positions.hf.empty())
    add_linear(std::string(m.positions.hf), config_.max_positions + family.position_offset, hidden,
               false);
  for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
    const auto module = [&](const ModuleName& name) { return module_name(name.hf, layer); };
    add_norm(module(m.attention_norm), hidden);
    if (!m.qkv.hf.empty()) {
      add_linear(module(m.qkv), query + 2 * key, hidden, qkv_bias);
    } else {
      add_linear(module(m.q), query, hidden, qkv_bias);
      add_linear(module(m.k), key, hidden, qkv_bias);
      add_linear(module(m.v), key, hidden, qkv_bias);
    }
    if (!m.q_norm.hf.empty()) add_norm(module(m.q_norm), config_.head_dim);
    if (!m.k_norm.hf.empty()) add_norm(module(m.k_norm), config_.head_dim);
    add_linear(module(m.o), hidden, query, o_bias);
    add_norm(module(m.mlp_norm), hidden);
    if (!m.gate_up.hf.empty()) {
      add_linear(module(m.gate_up), 2 * inner, hidden, mlp_bias);
    } else {
      if (!m.gate.hf.empty()) add_linear(module(m.gate), inner, hidden, mlp_bias);
      add_linear(module(m.up), inner, hidden, mlp_bias);
    }
    add_linear(module(m.down), hidden, inner, mlp_bias);
  }
  add_norm(std::string(m.final_norm.hf), hidden);
  if (!config_.tied_embeddings)
    add_linear(std::string(m.head.hf), config_.vocab_size, hidden, false);
}

std::string PortableModel::norm_of(const std::string& module) const {
  const ModuleNames& m = family_named(config_.family).modules;
  const auto norm_behind = [&](std::initializer_list<ModuleName> readers, const ModuleName& norm) {
    for (const ModuleName& reader : readers) {
      if (const auto layer = matched_layer(reader.hf, module)) return module_name(norm.hf, *layer);
    }
    return std::string();
  };
  const std::string norm = norm_behind({m.q, m.k, m.v}, m.attention_norm);
  return norm.empty() ? norm_behind({m.gate, m.up}, m.mlp_norm) : norm;
}

/// A tensor that is not fused; a bias that the source lacks is 0, plus W·μ of a moved shift μ.
Matrix<float> PortableModel::load_part(const std::string& name) const {
  if (!name.ends_with(kBias)) return source_->load(name);
  const std::string module = name.substr(0, name.size() - kBias.size());
  const std::string norm = norm_of(module);
  if (std::find(moved_.begin(), moved_.end(), norm) != moved_.end())
    return bias_with_shift(*source_, module, norm);
  if (source_->has(name)) return source_->load(name);
  return Matrix<float>(1, source_->load(with(module, kWeight)).rows(), true);
}

Matrix<float> PortableModel::load(const std::string& name) const {
  const std::vector<std::string> names = parts_of(config_, name);
  if (names.size() == 1) return load_part(name);
  std::vector<Matrix<float>> parts;
  int64_t size = 0;
  for (const std::string& part : names) {
    parts.push_back(load_part(part));
    size += parts.back().size();
  }
  const int64_t cols = name.ends_with(kBias) ? size : parts[0].cols();
  Matrix<float> result(size / cols, cols);
  float* at = result.data();
  for (const Matrix<float>& part : parts) at = std::copy_n(part.data(), part.size(), at);
  return result;
}

}  // namespace d2q
