#include "model/weight_source_checks.h"

#include <fmt/ranges.h>

#include <bit>

#include "base/error.h"
#include "model/family.h"

namespace d2q {

std::vector<int64_t> expected_shape(const ModelConfig& config, const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string module = name.substr(0, dot);
  const std::string part = name.substr(dot + 1);
  if (part != "weight" && part != "bias") return {};
  const Family& family = family_named(config.family);
  const ModuleNames& m = family.modules;
  const int64_t positions = config.max_positions + family.position_offset;
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.n_heads * config.head_dim;
  const int64_t key = config.n_kv_heads * config.head_dim;
  const int64_t inner = config.intermediate_size;
  struct Row {
    ModuleName module;
    std::vector<int64_t> shape;
  };
  const Row rows[] = {{m.attention_norm, {hidden}},
                      {m.q, {query, hidden}},
                      {m.k, {key, hidden}},
                      {m.v, {key, hidden}},
                      {m.o, {hidden, query}},
                      {m.q_norm, {config.head_dim}},
                      {m.k_norm, {config.head_dim}},
                      {m.mlp_norm, {hidden}},
                      {m.gate, {inner, hidden}},
                      {m.up, {inner, hidden}},
                      {m.down, {hidden, inner}},
                      {m.embedding, {config.vocab_size, hidden}},
                      {m.final_norm, {hidden}},
                      {m.head, {config.vocab_size, hidden}},
                      {m.positions, {positions, hidden}},
                      {m.qkv, {query + 2 * key, hidden}},
                      {m.gate_up, {2 * inner, hidden}}};
  for (const Row& row : rows) {
    const auto layer = matched_layer(row.module.hf, module);
    if (!layer || *layer >= config.n_layers) continue;
    if (part == "weight") return row.shape;
    return {row.shape.front()};
  }
  return {};
}

void check_shape(const ModelConfig& config, const std::string& name,
                 const std::vector<int64_t>& found, const std::string& subject) {
  const std::vector<int64_t> expected = expected_shape(config, name);
  if (expected.empty()) {
    if (found.size() == 1 || found.size() == 2) return;
    fail(ErrorCode::kUnsupported, "{}: tensor '{}' has {} dimensions, 1 or 2 are handled", subject,
         name, found.size());
  }
  if (found != expected) {
    fail(ErrorCode::kCorrupt,
         "{}: tensor '{}' has shape [{}], the configuration says [{}]; files of two models mixed?",
         subject, name, fmt::join(found, ", "), fmt::join(expected, ", "));
  }
}

void check_finite(std::span<const float> values, size_t offset, const std::string& name,
                  const std::string& subject) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t bad = 0;  // no early exit: the loop must vectorize
  for (const float value : values) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(value) & kExponent) == kExponent);
  }
  if (bad == 0) return;
  for (size_t i = 0; i < values.size(); ++i) {
    if ((std::bit_cast<uint32_t>(values[i]) & kExponent) != kExponent) continue;
    fail(ErrorCode::kNumeric,
         "{}: tensor '{}' has {} at index {}; a broken training run or download?", subject, name,
         values[i], offset + i);
  }
}

void fail_missing_tensor(const std::string& name, const std::string& subject) {
  fail(ErrorCode::kNotFound, "{}: no tensor '{}'; incomplete model or another family?", subject,
       name);
}

}  // namespace d2q
