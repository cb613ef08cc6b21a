#include "model/weight_source_checks.h"

#include <fmt/ranges.h>

#include <bit>

#include "base/error.h"
#include "model/family.h"

namespace d2q {
namespace {

/// True when `module` is `pattern` for some layer of the model.
bool is_module(std::string_view pattern, std::string_view module, int64_t n_layers) {
  if (pattern.empty()) return false;
  const size_t place = pattern.find("{}");
  if (place == std::string_view::npos) return pattern == module;
  const std::string_view before = pattern.substr(0, place);
  const std::string_view after = pattern.substr(place + 2);
  if (!module.starts_with(before) || !module.ends_with(after) ||
      module.size() <= before.size() + after.size()) {
    return false;
  }
  const std::string_view digits =
      module.substr(before.size(), module.size() - before.size() - after.size());
  if (digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string_view::npos) {
    return false;
  }
  return std::stoll(std::string(digits)) < n_layers;
}

}  // namespace

std::vector<int64_t> expected_shape(const ModelConfig& config, const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string module = name.substr(0, dot);
  const std::string part = name.substr(dot + 1);
  if (part != "weight" && part != "bias") return {};

  const ModuleNames& m = family_named(config.family).modules;
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.n_heads * config.head_dim;
  const int64_t key = config.n_kv_heads * config.head_dim;
  const int64_t inner = config.intermediate_size;
  struct Row {
    ModuleName module;
    std::vector<int64_t> shape;
  };
  const Row rows[] = {{m.attention_norm, {hidden}},  {m.q, {query, hidden}},
                      {m.k, {key, hidden}},          {m.v, {key, hidden}},
                      {m.o, {hidden, query}},        {m.q_norm, {config.head_dim}},
                      {m.k_norm, {config.head_dim}}, {m.mlp_norm, {hidden}},
                      {m.gate, {inner, hidden}},     {m.up, {inner, hidden}},
                      {m.down, {hidden, inner}},     {m.embedding, {config.vocab_size, hidden}},
                      {m.final_norm, {hidden}},      {m.head, {config.vocab_size, hidden}}};
  for (const Row& row : rows) {
    if (!is_module(row.module.hf, module, config.n_layers)) continue;
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
