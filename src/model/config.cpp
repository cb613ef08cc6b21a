#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "format/json_file.h"
#include "model/config_fields.h"
#include "model/family.h"

namespace d2q {
namespace {

constexpr int64_t kMaxHidden = int64_t{1} << 20;
constexpr int64_t kMaxIntermediate = int64_t{1} << 22;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxHeadDim = 65536;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr double kMaxRopeTheta = 1e15;
constexpr double kMaxRopeFactor = 1e6;
constexpr size_t kMaxEosTokens = 64;

const char* hf_name(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGelu:
      return "gelu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kRelu:
      return "relu";
  }
  return "";
}

nlohmann::json rope_to_hf(const RopeScaling& rope) {
  switch (rope.kind) {
    case RopeScaling::Kind::kNone:
      return nullptr;
    case RopeScaling::Kind::kLinear:
      return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeScaling::Kind::kDynamic:
      return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
    case RopeScaling::Kind::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_frequency_factor},
              {"high_freq_factor", rope.high_frequency_factor},
              {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeScaling::Kind::kYarn: {
      nlohmann::json json = {{"rope_type", "yarn"},
                             {"factor", rope.factor},
                             {"beta_fast", rope.beta_fast},
                             {"beta_slow", rope.beta_slow},
                             {"original_max_position_embeddings", rope.original_max_positions}};
      if (rope.attention_factor != 0.0) json["attention_factor"] = rope.attention_factor;
      return json;
    }
    case RopeScaling::Kind::kLong:
      return {{"rope_type", "longrope"},
              {"short_factor", rope.short_factors},
              {"long_factor", rope.long_factors},
              {"attention_factor", rope.attention_factor},
              {"original_max_position_embeddings", rope.original_max_positions}};
  }
  return nullptr;
}

}  // namespace

int64_t in_range(int64_t value, int64_t low, int64_t high, const std::string& subject,
                 const std::string& field) {
  if (value < low || value > high) {
    fail(ErrorCode::kCorrupt, "{}: '{}' is {}, expected {} to {}; corrupt file?", subject, field,
         value, low, high);
  }
  return value;
}

double in_range(double value, double low, double high, const std::string& subject,
                const std::string& field) {
  if (!(value >= low && value <= high)) {  // also catches NaN
    fail(ErrorCode::kCorrupt, "{}: '{}' is {}, expected {} to {}; corrupt file?", subject, field,
         value, low, high);
  }
  return value;
}

void check_config(const ModelConfig& config, const std::string& subject) {
  in_range(config.hidden_size, 1, kMaxHidden, subject, "hidden size");
  in_range(config.intermediate_size, 1, kMaxIntermediate, subject, "intermediate size");
  in_range(config.n_layers, 1, kMaxLayers, subject, "number of layers");
  in_range(config.n_heads, 1, kMaxHeads, subject, "number of heads");
  in_range(config.n_kv_heads, 1, config.n_heads, subject, "number of key-value heads");
  in_range(config.head_dim, 2, kMaxHeadDim, subject, "head size");
  in_range(config.vocab_size, 1, kMaxVocabulary, subject, "vocabulary size");
  in_range(config.max_positions, 1, kMaxPositions, subject, "number of positions");
  in_range(config.sliding_window, 0, kMaxPositions, subject, "sliding window");
  in_range(double{config.norm_epsilon}, 0.0, 1.0, subject, "norm epsilon");
  in_range(config.rope_theta, 1.0, kMaxRopeTheta, subject, "rope theta");
  if (config.n_heads % config.n_kv_heads != 0) {
    fail(ErrorCode::kCorrupt,
         "{}: {} heads are not a multiple of {} key-value heads; corrupt file?", subject,
         config.n_heads, config.n_kv_heads);
  }
  if (family_named(config.family).positions == Positions::kLearned) return;
  in_range(config.rotary_dim, 0, config.head_dim, subject, "number of rotated dimensions");
  if (config.rotated() % 2 != 0) {
    fail(ErrorCode::kCorrupt, "{}: head size {} is odd, rotary positions need pairs; corrupt file?",
         subject, config.rotated());
  }
  const RopeScaling& rope = config.rope_scaling;
  if (rope.kind == RopeScaling::Kind::kNone) return;
  in_range(rope.factor, 1e-6, kMaxRopeFactor, subject, "rope factor");
  if (rope.kind == RopeScaling::Kind::kLlama3) {
    in_range(rope.low_frequency_factor, 1e-6, kMaxRopeFactor, subject, "low_freq_factor");
    in_range(rope.high_frequency_factor, 1e-6, kMaxRopeFactor, subject, "high_freq_factor");
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      fail(ErrorCode::kCorrupt,
           "{}: high_freq_factor {} is not above low_freq_factor {}; corrupt file?", subject,
           rope.high_frequency_factor, rope.low_frequency_factor);
    }
  }
  if (rope.kind == RopeScaling::Kind::kYarn) {
    in_range(rope.beta_fast, 1e-6, kMaxRopeFactor, subject, "beta_fast");
    in_range(rope.beta_slow, 1e-6, kMaxRopeFactor, subject, "beta_slow");
    in_range(rope.attention_factor, 0.0, kMaxRopeFactor, subject, "attention_factor");
  }
  if (rope.kind == RopeScaling::Kind::kLong) {
    in_range(rope.attention_factor, 1e-6, kMaxRopeFactor, subject, "attention_factor");
    for (const std::vector<double>* factors : {&rope.short_factors, &rope.long_factors}) {
      in_range(static_cast<int64_t>(factors->size()), config.rotated() / 2, config.rotated() / 2,
               subject, "number of longrope factors");
      for (const double factor : *factors)
        in_range(factor, 1e-6, kMaxRopeFactor, subject, "longrope factor");
    }
  }
  if (rope.kind != RopeScaling::Kind::kLinear) {
    in_range(rope.original_max_positions, 1, kMaxPositions, subject,
             "original number of positions");
  }
}

void add_eos_token(ModelConfig& config, int64_t token, const std::string& subject) {
  const auto id = static_cast<int32_t>(in_range(token, 0, kMaxVocabulary, subject, "end token"));
  auto& tokens = config.eos_tokens;
  if (std::find(tokens.begin(), tokens.end(), id) != tokens.end()) return;
  in_range(static_cast<int64_t>(tokens.size()), 0, static_cast<int64_t>(kMaxEosTokens) - 1, subject,
           "number of end tokens before the last");
  tokens.push_back(id);
}

nlohmann::json config_to_hf(const ModelConfig& config) {
  const Family& family = family_named(config.family);
  const ConfigSpelling& spelling = family.config;
  nlohmann::json json;
  json["architectures"] = {family.hf_architecture};
  json["model_type"] = family.hf_model_type;
  json["hidden_size"] = config.hidden_size;
  json[spelling.intermediate_size] = config.intermediate_size;
  json["num_hidden_layers"] = config.n_layers;
  json["num_attention_heads"] = config.n_heads;
  json["vocab_size"] = config.vocab_size;
  json["max_position_embeddings"] = config.max_positions;
  // Through its shortest decimal form: 1e-05, not 9.999999747378752e-06.
  json[spelling.norm_epsilon] = std::stod(fmt::format("{}", config.norm_epsilon));
  json[spelling.activation] = hf_name(config.activation);
  json["tie_word_embeddings"] = config.tied_embeddings;
  if (family.positions == Positions::kRope) {
    json["num_key_value_heads"] = config.n_kv_heads;
    json["head_dim"] = config.head_dim;
    json["rope_theta"] = config.rope_theta;
    json["rope_scaling"] = rope_to_hf(config.rope_scaling);
    if (config.rotated() != config.head_dim) {
      json["partial_rotary_factor"] =
          static_cast<double>(config.rotated()) / static_cast<double>(config.head_dim);
    }
    json["sliding_window"] =
        config.sliding_window > 0 ? nlohmann::json(config.sliding_window) : nlohmann::json(nullptr);
  }
  if (config.rope_scaling.kind == RopeScaling::Kind::kLong)
    json["original_max_position_embeddings"] = config.rope_scaling.original_max_positions;
  if (family.hf_model_type.starts_with("qwen")) {
    json["use_sliding_window"] = config.sliding_window > 0;
    json["max_window_layers"] = config.sliding_window > 0 ? 0 : config.n_layers;
  }
  json["bos_token_id"] =
      config.bos_token ? nlohmann::json(*config.bos_token) : nlohmann::json(nullptr);
  if (config.eos_tokens.size() == 1) {
    json["eos_token_id"] = config.eos_tokens[0];
  } else {
    json["eos_token_id"] =
        config.eos_tokens.empty() ? nlohmann::json(nullptr) : nlohmann::json(config.eos_tokens);
  }
  return json;
}

nlohmann::json read_hf_config(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return read_json_file(model / "config.json");
  return config_to_hf(config_from_gguf(GgufFile(model)));
}

}  // namespace d2q
