// The table of model families. A new family is a row here, a test, and whatever its stages need.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "kernels/device.h"

namespace d2q {

enum class Positions { kRope, kLearned };

/// A module's name in both schemes, without ".weight" or ".bias"; "{}" stands for the layer. Empty
/// when the family has no such module.
struct ModuleName {
  std::string_view hf;
  std::string_view gguf;
};

/// The modules of one block and of the whole model.
struct ModuleNames {
  ModuleName attention_norm, q, k, v, o, q_norm, k_norm, mlp_norm, gate, up, down;
  ModuleName embedding, positions, final_norm, head;
};

struct Family {
  std::string_view name;             // "llama"
  std::string_view hf_architecture;  // "LlamaForCausalLM"
  std::string_view hf_model_type;    // "llama"
  std::string_view gguf_architecture;
  NormKind norm = NormKind::kRms;
  Positions positions = Positions::kRope;
  bool qkv_bias = false;  // q, k and v always have biases; other families may have them stored
  bool qk_norm = false;   // per-head norms of q and k
  bool gated_mlp = true;
  bool gguf_permutes_qk = false;  // GGUF stores q and k rows in interleaved-pair RoPE order
  ModuleNames modules;
};

std::span<const Family> families();
/// "llama, mistral, ...": for messages.
std::string family_names();
/// By ModelConfig::family. An unknown name is InternalError.
const Family& family_named(std::string_view name);
/// nullptr when no row matches.
const Family* find_hf_family(std::string_view architecture, std::string_view model_type);
const Family* find_gguf_family(std::string_view architecture);

/// "model.layers.3.mlp.up_proj" from "model.layers.{}.mlp.up_proj" and 3.
std::string module_name(std::string_view pattern, int64_t layer);
/// The GGUF name of an HF tensor ("model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"), or
/// "" when the family has no such module.
std::string gguf_tensor_name(const Family& family, std::string_view hf_name);

}  // namespace d2q
