// ModelConfig from an HF config.json. Defaults for absent fields are those of the HF classes.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "model/config_fields.h"
#include "model/family.h"

namespace d2q {
namespace {

using nlohmann::json;

/// Typed access to the fields of one JSON object. A null counts as absent, as it does for HF.
class JsonFields {
 public:
  JsonFields(const json& object, std::string subject)
      : object_(object), subject_(std::move(subject)) {
    if (!object.is_object()) fail(ErrorCode::kCorrupt, "{}: not a JSON object", subject_);
  }

  const std::string& subject() const { return subject_; }
  bool has(const char* field) const { return object_.contains(field); }
  const json* find(const char* field) const {
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::optional<int64_t> integer(const char* field) const {
    const json* value = find(field);
    if (value == nullptr) return std::nullopt;
    return as_integer(*value, field);
  }
  int64_t as_integer(const json& value, const char* field) const {
    // Unsigned numbers above 2^63 would come out negative.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))) {
      wrong_type(field, "an integer");
    }
    return value.get<int64_t>();
  }
  int64_t required_integer(const char* field) const {
    const auto value = integer(field);
    if (!value) fail(ErrorCode::kCorrupt, "{}: field '{}' is missing", subject_, field);
    return *value;
  }
  std::optional<double> number(const char* field) const {
    const json* value = find(field);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) wrong_type(field, "a number");
    return value->get<double>();
  }
  bool boolean(const char* field, bool absent) const {
    const json* value = find(field);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) wrong_type(field, "true or false");
    return value->get<bool>();
  }
  std::string string(const char* field) const {
    const json* value = find(field);
    if (value == nullptr) return "";
    if (!value->is_string()) wrong_type(field, "a string");
    return value->get<std::string>();
  }
  [[noreturn]] void wrong_type(const char* field, const char* expected) const {
    fail(ErrorCode::kCorrupt, "{}: field '{}' is not {}", subject_, field, expected);
  }

 private:
  const json& object_;
  std::string subject_;
};

const Family& find_family(const JsonFields& fields) {
  std::string architecture;
  if (const json* names = fields.find("architectures")) {
    if (!names->is_array() || (!names->empty() && !names->front().is_string())) {
      fields.wrong_type("architectures", "a list of names");
    }
    if (!names->empty()) architecture = names->front().get<std::string>();
  }
  const std::string model_type = fields.string("model_type");
  if (const Family* family = find_hf_family(architecture, model_type)) return *family;
  fail(ErrorCode::kUnsupported, "{}: model family '{}' is not handled; handled are {}",
       fields.subject(), architecture.empty() ? model_type : architecture, family_names());
}

Activation read_activation(const JsonFields& fields, const ConfigSpelling& spelling) {
  std::string name = fields.string(spelling.activation);
  if (name.empty()) name = spelling.default_activation;
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  fail(ErrorCode::kUnsupported, "{}: activation '{}' is not handled", fields.subject(), name);
}

/// What HF multiplies cos and sin by when the config gives mscale and mscale_all_dim.
double yarn_attention_factor(const JsonFields& rope, double factor) {
  if (const auto stored = rope.number("attention_factor")) return *stored;
  const double mscale = rope.number("mscale").value_or(0.0);
  const double mscale_all = rope.number("mscale_all_dim").value_or(0.0);
  if (mscale == 0.0 || mscale_all == 0.0 || factor <= 1.0) return 0.0;  // the usual formula
  return (0.1 * mscale * std::log(factor) + 1.0) / (0.1 * mscale_all * std::log(factor) + 1.0);
}

/// A list of numbers; empty when absent.
std::vector<double> numbers(const JsonFields& fields, const char* field) {
  const json* list = fields.find(field);
  std::vector<double> values;
  if (list == nullptr) return values;
  if (!list->is_array()) fields.wrong_type(field, "a list of numbers");
  for (const json& value : *list) {
    if (!value.is_number()) fields.wrong_type(field, "a list of numbers");
    values.push_back(value.get<double>());
  }
  return values;
}

/// LongRoPE (arXiv 2402.13753), for which transformers takes the factor from the two lengths.
void read_longrope(const JsonFields& rope, int64_t max_positions, RopeScaling& scaling) {
  scaling.kind = RopeScaling::Kind::kLong;
  scaling.short_factors = numbers(rope, "short_factor");
  scaling.long_factors = numbers(rope, "long_factor");
  const auto original = static_cast<double>(scaling.original_max_positions);
  scaling.factor = original > 0.0 ? static_cast<double>(max_positions) / original : 1.0;
  const double usual = scaling.factor > 1.0 && original > 1.0
                           ? std::sqrt(1.0 + std::log(scaling.factor) / std::log(original))
                           : 1.0;
  scaling.attention_factor = rope.number("attention_factor").value_or(usual);
}

RopeScaling read_rope_scaling(const JsonFields& rope, const JsonFields& fields,
                              int64_t max_positions) {
  std::string kind = rope.string("rope_type");
  if (kind.empty()) kind = rope.string("type");
  RopeScaling scaling;
  if (kind.empty() || kind == "default") return scaling;
  const auto original = fields.integer("original_max_position_embeddings");
  scaling.original_max_positions =
      original ? *original
               : rope.integer("original_max_position_embeddings").value_or(max_positions);
  if (kind == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.original_max_positions = 0;
  } else if (kind == "dynamic") {
    scaling.kind = RopeScaling::Kind::kDynamic;
    scaling.original_max_positions = max_positions;  // HF ignores the stored one here
  } else if (kind == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_frequency_factor = rope.number("low_freq_factor").value_or(1.0);
    scaling.high_frequency_factor = rope.number("high_freq_factor").value_or(4.0);
  } else if (kind == "yarn") {
    scaling.kind = RopeScaling::Kind::kYarn;
    scaling.beta_fast = rope.number("beta_fast").value_or(32.0);
    scaling.beta_slow = rope.number("beta_slow").value_or(1.0);
    if (!rope.boolean("truncate", true)) {
      fail(ErrorCode::kUnsupported, "{}: yarn scaling with truncate = false is not handled",
           fields.subject());
    }
  } else if (kind == "longrope" || kind == "su") {
    read_longrope(rope, max_positions, scaling);
    return scaling;
  } else {
    fail(ErrorCode::kUnsupported,
         "{}: rope scaling '{}', handled are linear, dynamic, llama3, yarn and longrope",
         fields.subject(), kind);
  }
  const auto factor = rope.number("factor");
  if (factor) {
    scaling.factor = *factor;
  } else if (scaling.kind == RopeScaling::Kind::kYarn && scaling.original_max_positions > 0) {
    scaling.factor =
        static_cast<double>(max_positions) / static_cast<double>(scaling.original_max_positions);
  } else {
    fail(ErrorCode::kCorrupt, "{}: rope scaling '{}' without 'factor'", fields.subject(), kind);
  }
  if (scaling.kind == RopeScaling::Kind::kYarn) {
    scaling.attention_factor = yarn_attention_factor(rope, scaling.factor);
  }
  return scaling;
}

void read_rope(const JsonFields& fields, ModelConfig& config) {
  config.rope_theta = fields.number("rope_theta").value_or(10000.0);
  double rotary_share = fields.number("partial_rotary_factor").value_or(1.0);
  // Newer configs gather everything in rope_parameters; older ones have rope_scaling.
  const json* object = fields.find("rope_parameters");
  if (object == nullptr) object = fields.find("rope_scaling");
  if (object != nullptr) {
    const JsonFields rope(*object, fields.subject());
    const bool nested = std::any_of(object->begin(), object->end(),
                                    [](const json& value) { return value.is_object(); });
    if (nested) {
      fail(ErrorCode::kUnsupported,
           "{}: rope parameters that differ between layers are not handled", fields.subject());
    }
    config.rope_theta = rope.number("rope_theta").value_or(config.rope_theta);
    rotary_share = rope.number("partial_rotary_factor").value_or(rotary_share);
    config.rope_scaling = read_rope_scaling(rope, fields, config.max_positions);
  }
  in_range(rotary_share, 0.0, 1.0, fields.subject(), "partial_rotary_factor");
  // Rounded down, as the HF classes do; all of them is 0.
  if (rotary_share == 1.0) return;
  const auto rotated = static_cast<int64_t>(rotary_share * static_cast<double>(config.head_dim));
  config.rotary_dim =
      in_range(rotated, 2, config.head_dim, fields.subject(), "number of rotated dimensions");
}

/// What OPT's configurations can ask for beyond the usual decoder.
void check_opt(const JsonFields& fields, const ModelConfig& config) {
  const bool usual = fields.boolean("do_layer_norm_before", true) &&
                     !fields.boolean("_remove_final_layer_norm", false) &&
                     fields.boolean("enable_bias", true) &&
                     fields.boolean("layer_norm_elementwise_affine", true);
  if (!usual ||
      fields.integer("word_embed_proj_dim").value_or(config.hidden_size) != config.hidden_size) {
    fail(ErrorCode::kUnsupported,
         "{}: an OPT model whose norms stand behind its layers, that lacks biases or a final norm, "
         "or whose embedding has another width is not handled",
         fields.subject());
  }
}

/// The window of all layers; families with a window in some layers only are not handled.
int64_t read_sliding_window(const JsonFields& fields, const Family& family, int64_t n_layers) {
  int64_t window = 0;
  int64_t first_layer = 0;
  if (family.config.plain_window) {
    // An absent field means the class default, null means none.
    window = fields.has("sliding_window") ? fields.integer("sliding_window").value_or(0)
                                          : family.config.default_window;
  } else if (fields.boolean("use_sliding_window", false)) {
    window = fields.integer("sliding_window").value_or(0);
    first_layer = fields.integer("max_window_layers").value_or(0);
  }
  if (const json* types = fields.find("layer_types"); types != nullptr && window > 0) {
    if (!types->is_array()) fields.wrong_type("layer_types", "a list");
    const auto n_sliding = std::count(types->begin(), types->end(), json("sliding_attention"));
    if (n_sliding == 0) return 0;
    first_layer = n_sliding == static_cast<std::ptrdiff_t>(types->size()) ? 0 : 1;
  }
  if (window == 0 || first_layer >= n_layers) return 0;
  if (first_layer > 0) {
    fail(ErrorCode::kUnsupported, "{}: a sliding window in some layers only is not handled",
         fields.subject());
  }
  return window;
}

void read_eos(const JsonFields& fields, ModelConfig& config) {
  const json* value = fields.find("eos_token_id");
  if (value == nullptr) return;
  if (!value->is_array()) {
    add_eos_token(config, fields.as_integer(*value, "eos_token_id"), fields.subject());
    return;
  }
  for (const json& token : *value) {
    add_eos_token(config, fields.as_integer(token, "eos_token_id"), fields.subject());
  }
}

void check_quantization(const JsonFields& fields) {
  const json* object = fields.find("quantization_config");
  if (object == nullptr) return;
  const JsonFields quantization(*object, fields.subject());
  const std::string method = quantization.string("quant_method");
  if (method != "d2quant") {
    fail(ErrorCode::kUnsupported,
         "{}: the model is already quantized with '{}', which is not handled; use the original one",
         fields.subject(), method);
  }
}

}  // namespace

ModelConfig config_from_hf(const json& config_json, const json& generation_config,
                           const std::string& subject) {
  const JsonFields fields(config_json, subject);
  const Family& family = find_family(fields);
  check_quantization(fields);

  ModelConfig config;
  config.family = family.name;
  config.hidden_size = fields.required_integer("hidden_size");
  const ConfigSpelling& spelling = family.config;
  config.intermediate_size = fields.required_integer(spelling.intermediate_size);
  config.n_layers = fields.required_integer("num_hidden_layers");
  config.n_heads = in_range(fields.required_integer("num_attention_heads"), 1, 65536, subject,
                            "num_attention_heads");
  config.n_kv_heads = fields.integer("num_key_value_heads").value_or(config.n_heads);
  config.head_dim = fields.integer("head_dim").value_or(config.hidden_size / config.n_heads);
  config.vocab_size = fields.required_integer("vocab_size");
  config.max_positions = fields.required_integer("max_position_embeddings");
  config.norm_epsilon = static_cast<float>(
      fields.number(spelling.norm_epsilon).value_or(spelling.default_norm_epsilon));
  config.activation = read_activation(fields, spelling);
  config.tied_embeddings = fields.boolean("tie_word_embeddings", spelling.tied_by_default);
  config.sliding_window = read_sliding_window(fields, family, config.n_layers);
  if (family.positions == Positions::kRope) read_rope(fields, config);
  if (family.positions == Positions::kLearned) check_opt(fields, config);
  check_config(config, subject);
  if (const auto bos = fields.integer("bos_token_id")) {
    config.bos_token =
        static_cast<int32_t>(in_range(*bos, 0, config.vocab_size - 1, subject, "bos_token_id"));
  }
  read_eos(fields, config);
  if (!generation_config.is_null()) {
    read_eos(JsonFields(generation_config, subject + " (generation_config.json)"), config);
  }
  return config;
}

}  // namespace d2q
