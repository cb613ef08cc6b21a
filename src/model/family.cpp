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
    .qkv = {},
    .gate_up = {},
};

constexpr ModuleNames with_qk_norm(ModuleNames names) {
  names.q_norm = {"model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"};
  names.k_norm = {"model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"};
  return names;
}

constexpr ModuleNames phi3_modules() {
  ModuleNames names = kLlamaModules;
  names.qkv = {"model.layers.{}.self_attn.qkv_proj", "blk.{}.attn_qkv"};
  names.gate_up = {"model.layers.{}.mlp.gate_up_proj", "blk.{}.ffn_up"};
  for (ModuleName* part : {&names.q, &names.k, &names.v, &names.gate, &names.up}) part->gguf = {};
  return names;
}

constexpr ModuleNames kOptModules = {
    .attention_norm = {"model.decoder.layers.{}.self_attn_layer_norm", ""},
    .q = {"model.decoder.layers.{}.self_attn.q_proj", ""},
    .k = {"model.decoder.layers.{}.self_attn.k_proj", ""},
    .v = {"model.decoder.layers.{}.self_attn.v_proj", ""},
    .o = {"model.decoder.layers.{}.self_attn.out_proj", ""},
    .q_norm = {},
    .k_norm = {},
    .mlp_norm = {"model.decoder.layers.{}.final_layer_norm", ""},
    .gate = {},
    .up = {"model.decoder.layers.{}.fc1", ""},
    .down = {"model.decoder.layers.{}.fc2", ""},
    .embedding = {"model.decoder.embed_tokens", ""},
    .positions = {"model.decoder.embed_positions", ""},
    .final_norm = {"model.decoder.final_layer_norm", ""},
    .head = {"lm_head", ""},
    .qkv = {},
    .gate_up = {},
};

// GGUF files of Mistral models say "llama": the first row with an architecture wins, and the two
// families compute the same.
constexpr std::array kFamilies = {
    Family{.name = "llama",
           .hf_architecture = "LlamaForCausalLM",
           .hf_model_type = "llama",
           .gguf_architecture = "llama",
           .gguf_permutes_qk = true,
           .gguf_biases = true,
           .bias_switches = {.attention = "attention_bias", .mlp = "mlp_bias"},
           .modules = kLlamaModules},
    Family{.name = "mistral",
           .hf_architecture = "MistralForCausalLM",
           .hf_model_type = "mistral",
           .gguf_architecture = "llama",
           .gguf_permutes_qk = true,
           .gguf_biases = true,
           .config = {.plain_window = true, .default_window = 4096},
           .biased_twin = "llama",
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
           .bias_switches = {.attention = "attention_bias"},
           .modules = with_qk_norm(kLlamaModules)},
    Family{.name = "phi3",
           .hf_architecture = "Phi3ForCausalLM",
           .hf_model_type = "phi3",
           .gguf_architecture = "phi3",
           .config = {.default_norm_epsilon = 1e-5, .plain_window = true},
           .modules = phi3_modules()},
    Family{.name = "opt",
           .hf_architecture = "OPTForCausalLM",
           .hf_model_type = "opt",
           .gguf_architecture = "",
           .norm = NormKind::kLayer,
           .positions = Positions::kLearned,
           .position_offset = 2,
           .qkv_bias = true,
           .linear_bias = true,
           .gated_mlp = false,
           .config = {.intermediate_size = "ffn_dim",
                      .activation = "activation_function",
                      .default_activation = "relu",
                      .norm_epsilon = "layer_norm_eps",
                      .default_norm_epsilon = 1e-5,
                      .tied_by_default = true},
           .modules = kOptModules},
};

constexpr std::string_view kPlaceholder = "{}";

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
  if (architecture.empty()) return nullptr;
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

std::optional<int64_t> matched_layer(std::string_view pattern, std::string_view name) {
  constexpr size_t kMostDigits = 4;  // as many as the limit on layers has
  const size_t place = pattern.find(kPlaceholder);
  if (place == std::string_view::npos)
    return !pattern.empty() && pattern == name ? std::optional<int64_t>(0) : std::nullopt;
  const std::string_view before = pattern.substr(0, place);
  const std::string_view after = pattern.substr(place + kPlaceholder.size());
  if (name.size() <= before.size() + after.size() || !name.starts_with(before) ||
      !name.ends_with(after)) {
    return std::nullopt;
  }
  const std::string_view digits =
      name.substr(before.size(), name.size() - before.size() - after.size());
  if (digits.size() > kMostDigits ||
      digits.find_first_not_of("0123456789") != std::string_view::npos) {
    return std::nullopt;
  }
  return std::stoll(std::string(digits));
}

std::string gguf_tensor_name(const Family& family, std::string_view hf_name) {
  const size_t dot = hf_name.rfind('.');
  if (dot == std::string_view::npos) return "";
  const std::string_view module = hf_name.substr(0, dot);
  for (const ModuleName& name : all_modules(family.modules)) {
    const auto layer = matched_layer(name.hf, module);
    if (!layer) continue;
    if (name.gguf.empty()) return "";
    return module_name(name.gguf, *layer).append(hf_name.substr(dot));
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
