// The table of model families. A new family is a row here, a test, and whatever its stages need.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
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
  // Matrices that a file may hold in place of their parts: the rows of q, k and v one under
  // another, and those of gate and up. The parts keep names of their own, which packed folders use.
  ModuleName qkv, gate_up;
};

/// Every module of a row, absent ones included.
constexpr std::array<ModuleName, 17> all_modules(const ModuleNames& m) {
  return {m.attention_norm, m.q,          m.k,    m.v,   m.o,      m.q_norm,
          m.k_norm,         m.mlp_norm,   m.gate, m.up,  m.down,   m.embedding,
          m.positions,      m.final_norm, m.head, m.qkv, m.gate_up};
}

/// How an HF config.json spells what the families' classes spell differently.
struct ConfigSpelling {
  const char* intermediate_size = "intermediate_size";
  const char* activation = "hidden_act";
  const char* default_activation = "silu";
  const char* norm_epsilon = "rms_norm_eps";
  double default_norm_epsilon = 1e-6;
  bool tied_by_default = false;
  // "sliding_window" is in force without "use_sliding_window"; absent it is default_window.
  bool plain_window = false;
  int64_t default_window = 0;
};

/// The switches of config.json that give an architecture of transformers more biases than it has by
/// itself; empty where there is none. Each switch adds a bias to every linear of its half.
struct BiasSwitches {
  const char* attention = "";
  const char* mlp = "";
};

struct Family {
  std::string_view name;               // "llama"
  std::string_view hf_architecture;    // "LlamaForCausalLM"
  std::string_view hf_model_type;      // "llama"
  std::string_view gguf_architecture;  // empty: llama.cpp has none
  NormKind norm = NormKind::kRms;      // kLayer: always with a shift
  Positions positions = Positions::kRope;
  int64_t position_offset = 0;  // row of a learned table that position 0 has
  bool qkv_bias = false;     // q, k and v always have biases; other families may have them stored
  bool linear_bias = false;  // so do all linears of a block
  bool qk_norm = false;      // per-head norms of q and k
  bool gated_mlp = true;
  bool gguf_permutes_qk = false;  // GGUF stores q and k rows in interleaved-pair RoPE order
  bool gguf_biases = false;       // llama.cpp reads any bias of a block's linears
  ConfigSpelling config = {};
  BiasSwitches bias_switches = {};
  std::string_view biased_twin =
      "";  // computes the same where there is no window, and has switches
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
/// The layer for which `pattern` gives `name` (0 for a pattern without one), or nullopt.
std::optional<int64_t> matched_layer(std::string_view pattern, std::string_view name);
/// The GGUF name of an HF tensor ("model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"), or
/// "" when the family has no such module.
std::string gguf_tensor_name(const Family& family, std::string_view hf_name);

}  // namespace d2q
