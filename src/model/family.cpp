#include "model/family.h"

#include <fmt/format.h>

#include <array>

#include "base/error.h"
#include "model/block.h"

namespace d2q {
namespace {

/// The names that LLaMA set and that nearly every gated RMSNorm family kept.
constexpr ModuleNames kLlamaModules = {
    .attention_norm = {"model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
    .q = {"model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
    .k = {"model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
    .v = {"model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
    .o = {"model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
    .q_norm = {},
    .k_norm = {},
    .mlp_norm = {"model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
    .gate = {"model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
    .up = {"model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
    .down = {"model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
    .embedding = {"model.embed_tokens", "token_embd"},
    .positions = {},
    .final_norm = {"model.norm", "output_norm"},
    .head = {"lm_head", "output"},
};

constexpr ModuleNames with_qk_norm(ModuleNames names) {
  names.q_norm = {"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"};
  names.k_norm = {"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"};
  return names;
}

// GGUF files of Mistral models say "llama": the first row with an architecture wins, and the two
// families compute the same.
constexpr std::array kFamilies = {
    Family{.name = "llama",
           .hf_architecture = "LlamaForCausalLM",
           .hf_model_type = "llama",
           .gguf_architecture = "llama",
           .gguf_permutes_qk = true,
           .modules = kLlamaModules},
    Family{.name = "mistral",
           .hf_architecture = "MistralForCausalLM",
           .hf_model_type = "mistral",
           .gguf_architecture = "llama",
           .gguf_permutes_qk = true,
           .modules = kLlamaModules},
    Family{.name = "qwen2",
           .hf_architecture = "Qwen2ForCausalLM",
           .hf_model_type = "qwen2",
           .gguf_architecture = "qwen2",
           .qkv_bias = true,
           .modules = kLlamaModules},
    Family{.name = "qwen3",
           .hf_architecture = "Qwen3ForCausalLM",
           .hf_model_type = "qwen3",
           .gguf_architecture = "qwen3",
           .qk_norm = true,
           .modules = with_qk_norm(kLlamaModules)},
};

constexpr std::string_view kPlaceholder = "{}";

/// Matches `name` against `pattern` with one optional layer number: on success `layer` holds its
/// digits (empty for a pattern without one).
bool matches(std::string_view pattern, std::string_view name, std::string_view& layer) {
  const size_t place = pattern.find(kPlaceholder);
  if (place == std::string_view::npos) return pattern == name;
  const std::string_view before = pattern.substr(0, place);
  const std::string_view after = pattern.substr(place + kPlaceholder.size());
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) ||
      !name.ends_with(after)) {
    return false;
  }
  layer = name.substr(before.size(), name.size() - before.size() - after.size());
  return layer.find_first_not_of("0123456789") == std::string_view::npos;
}

}  // namespace

std::span<const Family> families() { return kFamilies; }

std::string family_names() {
  std::string names;
  for (const Family& family : kFamilies) {
    if (!names.empty()) names += ", ";
    names += family.name;
  }
  return names;
}

const Family& family_named(std::string_view name) {
  for (const Family& family : kFamilies) {
    if (family.name == name) return family;
  }
  D2Q_CHECK(false, "no family '{}'", name);
  return kFamilies[0];
}

const Family* find_hf_family(std::string_view architecture, std::string_view model_type) {
  for (const Family& family : kFamilies) {
    if (family.hf_architecture == architecture) return &family;
  }
  if (!architecture.empty()) return nullptr;  // e.g. a classifier over a known decoder
  for (const Family& family : kFamilies) {
    if (family.hf_model_type == model_type) return &family;
  }
  return nullptr;
}

const Family* find_gguf_family(std::string_view architecture) {
  for (const Family& family : kFamilies) {
    if (family.gguf_architecture == architecture) return &family;
  }
  return nullptr;
}

std::string module_name(std::string_view pattern, int64_t layer) {
  const size_t place = pattern.find(kPlaceholder);
  if (place == std::string_view::npos) return std::string(pattern);
  return fmt::format("{}{}{}", pattern.substr(0, place), layer,
                     pattern.substr(place + kPlaceholder.size()));
}

std::string gguf_tensor_name(const Family& family, std::string_view hf_name) {
  const size_t dot = hf_name.rfind('.');
  if (dot == std::string_view::npos) return "";
  const std::string_view module = hf_name.substr(0, dot);
  const ModuleNames& m = family.modules;
  for (const ModuleName& name :
       {m.attention_norm, m.q, m.k, m.v, m.o, m.q_norm, m.k_norm, m.mlp_norm, m.gate, m.up, m.down,
        m.embedding, m.positions, m.final_norm, m.head}) {
    std::string_view layer;
    if (name.hf.empty() || !matches(name.hf, module, layer)) continue;
    std::string result(name.gguf);
    if (!layer.empty()) result.replace(result.find(kPlaceholder), kPlaceholder.size(), layer);
    return result.append(hf_name.substr(dot));
  }
  return "";
}

std::string linear_name(const ModelConfig& config, int64_t layer, const std::string& projection) {
  const ModuleNames& m = family_named(config.family).modules;
  const std::pair<std::string_view, ModuleName> linears[] = {
      {"q_proj", m.q},       {"k_proj", m.k},   {"v_proj", m.v},      {"o_proj", m.o},
      {"gate_proj", m.gate}, {"up_proj", m.up}, {"down_proj", m.down}};
  for (const auto& [name, module] : linears) {
    if (name != projection) continue;
    D2Q_CHECK(!module.hf.empty(), "family '{}' has no {}", config.family, projection);
    return module_name(module.hf, layer);
  }
  D2Q_CHECK(false, "no projection '{}'", projection);
  return "";
}

}  // namespace d2q
