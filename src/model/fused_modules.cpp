#include "model/fused_modules.h"

#include "model/family.h"

namespace d2q {

std::optional<FusedRows> fused_rows(const ModelConfig& config, const std::string& name) {
  const ModuleNames& m = family_named(config.family).modules;
  const int64_t query = config.n_heads * config.head_dim;
  const int64_t key = config.n_kv_heads * config.head_dim;
  const int64_t inner = config.intermediate_size;
  struct Part {
    ModuleName part;
    ModuleName whole;
    int64_t first;
    int64_t count;
  };
  const Part parts[] = {{m.q, m.qkv, 0, query},
                        {m.k, m.qkv, query, key},
                        {m.v, m.qkv, query + key, key},
                        {m.gate, m.gate_up, 0, inner},
                        {m.up, m.gate_up, inner, inner}};
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return std::nullopt;
  for (const Part& entry : parts) {
    if (entry.whole.hf.empty()) continue;
    const auto layer = matched_layer(entry.part.hf, std::string_view(name).substr(0, dot));
    if (!layer) continue;
    return FusedRows{module_name(entry.whole.hf, *layer) + name.substr(dot), entry.first,
                     entry.count};
  }
  return std::nullopt;
}

std::vector<std::string> parts_of(const ModelConfig& config, const std::string& name) {
  const ModuleNames& m = family_named(config.family).modules;
  const size_t dot = name.rfind('.');
  const std::string module = name.substr(0, dot);
  const auto list = [&](std::initializer_list<ModuleName> parts, int64_t layer) {
    std::vector<std::string> names;
    for (const ModuleName& part : parts)
      names.push_back(module_name(part.hf, layer) + name.substr(dot));
    return names;
  };
  if (const auto layer = matched_layer(m.qkv.hf, module)) return list({m.q, m.k, m.v}, *layer);
  if (const auto layer = matched_layer(m.gate_up.hf, module)) return list({m.gate, m.up}, *layer);
  return {name};
}

}  // namespace d2q
