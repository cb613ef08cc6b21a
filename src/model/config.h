// What a model is made of, read from an HF config.json or from GGUF metadata.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "format/gguf.h"
#include "kernels/device.h"

namespace d2q {

/// RoPE frequencies: HF's rope_scaling kinds.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kDynamic, kLlama3, kYarn, kLong };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_frequency_factor = 1.0;   // llama3
  double high_frequency_factor = 4.0;  // llama3
  int64_t original_max_positions = 0;  // llama3, yarn, dynamic, long
  double beta_fast = 32.0;             // yarn
  double beta_slow = 1.0;              // yarn
  double attention_factor = 0.0;       // yarn; 0 = 0.1 ln(factor) + 1; long: as it is applied
  // long ("longrope"), [rotary_dim/2]: what frequencies are divided by in sequences of up to
  // original_max_positions tokens, and in longer ones.
  std::vector<double> short_factors;
  std::vector<double> long_factors;

  /// Whether the angles depend on how long the sequence is.
  bool depends_on_length() const { return kind == Kind::kDynamic || kind == Kind::kLong; }
};

struct ModelConfig {
  std::string family;  // a row of the family table: "llama", ...
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t n_layers = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;  // the first dimensions of a head that rotate; 0 = all
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  float norm_epsilon = 1e-5f;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  Activation activation = Activation::kSilu;
  bool tied_embeddings = false;
  int64_t sliding_window = 0;  // 0 = none
  std::optional<int32_t> bos_token;
  std::vector<int32_t> eos_tokens;

  int64_t rotated() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
};

/// From an HF config.json and, for the end tokens, generation_config.json (null when there is
/// none). `subject` names the file in errors. Throws Error{kCorrupt} on a missing field or one out
/// of range, Error{kUnsupported} on an unknown family or a feature that is not handled.
ModelConfig config_from_hf(const nlohmann::json& config, const nlohmann::json& generation_config,
                           const std::string& subject);

/// From GGUF metadata; the same errors.
ModelConfig config_from_gguf(const GgufFile& file);

/// The config.json that config_from_hf() reads back as `config`, for other tools and packed
/// folders.
nlohmann::json config_to_hf(const ModelConfig& config);

/// The config.json of any model: an HF or d2quant folder's own, or one made from a GGUF file's
/// metadata. Throws as open_model() does.
nlohmann::json read_hf_config(const std::filesystem::path& model);

}  // namespace d2q
