// ModelConfig from GGUF metadata.
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "model/config.h"
#include "model/config_fields.h"
#include "model/family.h"

namespace d2q {
namespace {

/// Metadata under the architecture's prefix: key("block_count") is "llama.block_count".
class GgufFields {
 public:
  GgufFields(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + "."), subject_(file.path().string()) {}

  std::string key(std::string_view name) const { return prefix_ + std::string(name); }
  bool has(std::string_view name) const { return file_.has_key(key(name)); }
  std::optional<int64_t> integer(std::string_view name) const { return file_.integer(key(name)); }
  double number(std::string_view name, double absent) const {
    return file_.number(key(name)).value_or(absent);
  }
  int64_t required_integer(std::string_view name) const { return required(integer(name), name); }
  double required_number(std::string_view name) const {
    return required(file_.number(key(name)), name);
  }
  const std::string& subject() const { return subject_; }

 private:
  template <typename T>
  T required(const std::optional<T>& value, std::string_view name) const {
    if (!value) {
      fail(ErrorCode::kCorrupt,
           "{}: metadata key '{}' is missing; was the file cut or converted badly?", subject_,
           key(name));
    }
    return *value;
  }

  const GgufFile& file_;
  std::string prefix_;
  std::string subject_;
};

/// A stored table of what each frequency is divided by.
std::vector<float> divisors_of(const GgufTensor& table, const ModelConfig& config,
                               const std::string& subject) {
  if (table.shape.size() != 1 || table.n_elements() != config.rotated() / 2) {
    fail(ErrorCode::kCorrupt, "{}: tensor '{}' has {} elements, expected {}; corrupt file?",
         subject, table.name, table.n_elements(), config.rotated() / 2);
  }
  std::vector<float> divisors(static_cast<size_t>(table.n_elements()));
  dequantize_blocks(table.type, table.bytes, divisors);
  return divisors;
}

/// LongRoPE: two tables, and a factor on cos and sin that is 1 where none is stored.
RopeScaling longrope(const GgufFile& file, const GgufFields& fields, const GgufTensor& long_table,
                     const ModelConfig& config) {
  const GgufTensor* short_table = file.find("rope_factors_short.weight");
  if (short_table == nullptr) {
    fail(ErrorCode::kCorrupt, "{}: 'rope_factors_long' without 'rope_factors_short'; cut file?",
         fields.subject());
  }
  RopeScaling rope;
  rope.kind = RopeScaling::Kind::kLong;
  rope.original_max_positions =
      fields.integer("rope.scaling.original_context_length").value_or(config.max_positions);
  rope.attention_factor = fields.number("rope.scaling.attn_factor", 1.0);
  rope.factor = static_cast<double>(config.max_positions) /
                static_cast<double>(std::max<int64_t>(1, rope.original_max_positions));
  const auto as_doubles = [&](const GgufTensor& table) {
    const std::vector<float> values = divisors_of(table, config, fields.subject());
    return std::vector<double>(values.begin(), values.end());
  };
  rope.short_factors = as_doubles(*short_table);
  rope.long_factors = as_doubles(long_table);
  return rope;
}

/// GGUF stores LLaMA 3's scaling as a table of divisors. The parameters that made it are found by
/// trying: the factor is the largest entry, the others are the ones every released model has; the
/// whole table must then agree.
RopeScaling scaling_from_table(const GgufFile& file, const GgufTensor& table,
                               const ModelConfig& config) {
  const std::string subject = file.path().string();
  const std::vector<float> divisors = divisors_of(table, config, subject);
  RopeScaling rope;
  rope.kind = RopeScaling::Kind::kLlama3;
  rope.original_max_positions = 8192;
  rope.factor = 1.0;
  for (const float divisor : divisors) rope.factor = std::max(rope.factor, double{divisor});
  if (rope.factor == 1.0) rope.kind = RopeScaling::Kind::kNone;
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double expected = llama3_divisor(config, rope, static_cast<int64_t>(i));
    // The converters compute in f32: wavelengths carry a relative error near 1e-6, which the ramp
    // magnifies by at most factor·high/(high - low).
    if (!(std::abs(divisors[i] - expected) <= 1e-4 * expected)) {
      fail(ErrorCode::kUnsupported,
           "{}: '{}'[{}] is {}, the LLaMA 3 rule gives {}; another rope scaling, which is not "
           "handled",
           subject, table.name, i, divisors[i], expected);
    }
  }
  return rope;
}

RopeScaling rope_scaling(const GgufFile& file, const GgufFields& fields,
                         const ModelConfig& config) {
  if (const GgufTensor* table = file.find("rope_freqs.weight")) {
    return scaling_from_table(file, *table, config);
  }
  if (const GgufTensor* table = file.find("rope_factors_long.weight"))
    return longrope(file, fields, *table, config);
  RopeScaling rope;
  const auto kind = file.string(fields.key("rope.scaling.type"));
  // Older files have a scale without a type.
  const double old_scale = fields.number("rope.scale_linear", 1.0);
  if (!kind || *kind == "none") {
    if (!kind && old_scale != 1.0) {
      rope.kind = RopeScaling::Kind::kLinear;
      rope.factor = old_scale;
    }
    return rope;
  }
  rope.factor = fields.number("rope.scaling.factor", old_scale);
  if (*kind == "linear") {
    if (rope.factor != 1.0) rope.kind = RopeScaling::Kind::kLinear;
    return rope;
  }
  if (*kind != "yarn") {
    fail(ErrorCode::kUnsupported, "{}: rope scaling '{}', handled are linear, yarn and llama3",
         fields.subject(), *kind);
  }
  rope.kind = RopeScaling::Kind::kYarn;
  rope.original_max_positions =
      fields.integer("rope.scaling.original_context_length").value_or(config.max_positions);
  rope.beta_fast = fields.number("rope.scaling.yarn_beta_fast", rope.beta_fast);
  rope.beta_slow = fields.number("rope.scaling.yarn_beta_slow", rope.beta_slow);
  // GGUF's factor multiplies the usual one; HF's replaces it.
  if (fields.has("rope.scaling.attn_factor")) {
    rope.attention_factor = fields.required_number("rope.scaling.attn_factor") *
                            (rope.factor > 1.0 ? 0.1 * std::log(rope.factor) + 1.0 : 1.0);
  }
  return rope;
}

void read_tokens(const GgufFile& file, ModelConfig& config, const std::string& subject) {
  if (const auto bos = file.integer("tokenizer.ggml.bos_token_id")) {
    config.bos_token =
        static_cast<int32_t>(in_range(*bos, 0, config.vocab_size - 1, subject, "bos_token_id"));
  }
  // A text ends with any of the three: end of text, of turn, of message.
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (const auto token = file.integer(key)) add_eos_token(config, *token, subject);
  }
}

}  // namespace

// 1 for short waves, `factor` for long ones, a ramp between.
double llama3_divisor(const ModelConfig& config, const RopeScaling& rope, int64_t i) {
  const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(config.rotated());
  const double wavelength = 2.0 * std::numbers::pi * std::pow(config.rope_theta, exponent);
  const auto original = static_cast<double>(rope.original_max_positions);
  if (wavelength < original / rope.high_frequency_factor) return 1.0;
  if (wavelength > original / rope.low_frequency_factor) return rope.factor;
  const double smooth = (original / wavelength - rope.low_frequency_factor) /
                        (rope.high_frequency_factor - rope.low_frequency_factor);
  return 1.0 / ((1.0 - smooth) / rope.factor + smooth);
}

ModelConfig config_from_gguf(const GgufFile& file) {
  const std::string subject = file.path().string();
  const auto architecture = file.string("general.architecture");
  if (!architecture) {
    fail(ErrorCode::kCorrupt,
         "{}: metadata key 'general.architecture' is missing; not a model file?", subject);
  }
  const Family* family = find_gguf_family(*architecture);
  if (family == nullptr) {
    fail(ErrorCode::kUnsupported, "{}: model architecture '{}' is not handled; handled are {}",
         subject, *architecture, family_names());
  }
  const GgufFields fields(file, *architecture);
  if (fields.integer("expert_count").value_or(0) > 0) {
    fail(ErrorCode::kUnsupported, "{}: a mixture of experts, which is not handled", subject);
  }
  if (const auto splits = file.integer("split.count"); splits.value_or(1) > 1) {
    fail(ErrorCode::kUnsupported, "{}: one of {} split files; join them first", subject, *splits);
  }
  const GgufTensor* embedding = file.find(std::string(family->modules.embedding.gguf) + ".weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    fail(ErrorCode::kCorrupt,
         "{}: tensor 'token_embd.weight' is missing or not a matrix; not a text model?", subject);
  }

  ModelConfig config;
  config.family = family->name;
  config.hidden_size = fields.required_integer("embedding_length");
  config.intermediate_size = fields.required_integer("feed_forward_length");
  config.n_layers = fields.required_integer("block_count");
  config.n_heads = in_range(fields.required_integer("attention.head_count"), 1, 65536, subject,
                            fields.key("attention.head_count"));
  config.n_kv_heads = fields.integer("attention.head_count_kv").value_or(config.n_heads);
  config.head_dim =
      fields.integer("attention.key_length").value_or(config.hidden_size / config.n_heads);
  config.vocab_size = embedding->shape[0];
  config.max_positions = fields.required_integer("context_length");
  config.norm_epsilon = static_cast<float>(
      fields.required_number(family->norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                                            : "attention.layer_norm_epsilon"));
  config.rope_theta = fields.number("rope.freq_base", 10000.0);
  config.sliding_window = fields.integer("attention.sliding_window").value_or(0);
  config.tied_embeddings = file.find(std::string(family->modules.head.gguf) + ".weight") == nullptr;
  config.rotary_dim = fields.integer("rope.dimension_count").value_or(0);
  if (config.rotary_dim == config.head_dim) config.rotary_dim = 0;
  check_config(config, subject);
  const int64_t value_length = fields.integer("attention.value_length").value_or(config.head_dim);
  if (value_length != config.head_dim) {
    fail(ErrorCode::kUnsupported, "{}: heads of {} with values of {}; only equal sizes are handled",
         subject, config.head_dim, value_length);
  }
  config.rope_scaling = rope_scaling(file, fields, config);
  check_config(config, subject);
  read_tokens(file, config, subject);
  return config;
}

}  // namespace d2q
