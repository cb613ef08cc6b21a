#include "quant/random_block_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "model/block_backward.h"
#include "model/family.h"

namespace d2q {
namespace {

constexpr size_t kNormals = 1048573;  // a prime, so that no two rows of a matrix start alike
constexpr std::string_view kWeight = ".weight";

}  // namespace

RandomBlockSource::RandomBlockSource(ModelConfig config, uint64_t seed)
    : config_(std::move(config)), normals_(kNormals) {
  Rng rng(seed);
  for (float& value : normals_) value = static_cast<float>(rng.gaussian());
}

RandomBlockSource::Shape RandomBlockSource::shape_of(const std::string& name) const {
  if (!name.ends_with(kWeight)) return {};
  const std::string module = name.substr(0, name.size() - kWeight.size());
  const Family& family = family_named(config_.family);
  const ModuleNames& names = family.modules;
  const int64_t hidden = config_.hidden_size, mlp = config_.intermediate_size;
  const int64_t attention = config_.n_heads * config_.head_dim;
  const int64_t key_value = config_.n_kv_heads * config_.head_dim;
  const std::pair<ModuleName, Shape> shapes[] = {{names.attention_norm, {1, hidden}},
                                                 {names.mlp_norm, {1, hidden}},
                                                 {names.final_norm, {1, hidden}},
                                                 {names.q_norm, {1, config_.head_dim}},
                                                 {names.k_norm, {1, config_.head_dim}},
                                                 {names.q, {attention, hidden}},
                                                 {names.k, {key_value, hidden}},
                                                 {names.v, {key_value, hidden}},
                                                 {names.o, {hidden, attention}},
                                                 {names.gate, {mlp, hidden}},
                                                 {names.up, {mlp, hidden}},
                                                 {names.down, {hidden, mlp}}};
  for (const auto& [pattern, shape] : shapes) {
    if (pattern.hf.empty()) continue;
    for (int64_t layer = 0; layer < config_.n_layers; ++layer) {
      if (module_name(pattern.hf, layer) == module) return shape;
    }
  }
  return {};
}

bool RandomBlockSource::has(const std::string& name) const { return shape_of(name).rows > 0; }

Matrix<float> RandomBlockSource::load(const std::string& name) const {
  const Shape shape = shape_of(name);
  if (shape.rows == 0) fail(ErrorCode::kNotFound, "random weights: no tensor '{}'", name);
  Matrix<float> result(shape.rows, shape.cols);
  if (shape.rows == 1) {
    std::fill_n(result.data(), result.size(), 1.0f);
    return result;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.cols));
  // Linears of one shape differ by where they begin.
  size_t next = 0;
  for (const char letter : name) next = (next * 31 + static_cast<size_t>(letter)) % kNormals;
  for (int64_t i = 0; i < result.size();) {
    const auto count = std::min(result.size() - i, static_cast<int64_t>(kNormals - next));
    const float* source = normals_.data() + next;
    for (int64_t j = 0; j < count; ++j) result.data()[i + j] = scale * source[j];
    i += count;
    next = 0;
  }
  return result;
}

}  // namespace d2q
