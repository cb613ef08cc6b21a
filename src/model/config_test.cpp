#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

using nlohmann::json;

json base_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 128},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"vocab_size", 1000},
          {"max_position_embeddings", 2048}};
}

/// The base with `changes` merged into it; null removes a field.
json with(const json& changes) {
  json config = base_config();
  config.merge_patch(changes);
  return config;
}

ModelConfig read(const json& config) { return config_from_hf(config, nullptr, "config.json"); }

TEST(ConfigTest, AbsentFieldsTakeTheDefaultsOfTheirClass) {
  const ModelConfig config = read(base_config());
  EXPECT_EQ(config.family, "llama");
  EXPECT_EQ(config.n_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.norm_epsilon, 1e-6f);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kNone);
  EXPECT_EQ(config.activation, Activation::kSilu);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_EQ(config.bos_token, std::nullopt);
  EXPECT_TRUE(config.eos_tokens.empty());
}

TEST(ConfigTest, StoredFieldsAreTaken) {
  const ModelConfig config = read(with({{"num_key_value_heads", 2},
                                        {"head_dim", 32},
                                        {"rms_norm_eps", 1e-5},
                                        {"rope_theta", 5e5},
                                        {"tie_word_embeddings", true},
                                        {"hidden_act", "gelu_pytorch_tanh"},
                                        {"bos_token_id", 1}}));
  EXPECT_EQ(config.n_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.activation, Activation::kGeluTanh);
  EXPECT_EQ(config.bos_token, 1);
}

TEST(ConfigTest, EndTokensComeFromBothFilesOnce) {
  EXPECT_EQ(read(with({{"eos_token_id", 2}})).eos_tokens, (std::vector<int32_t>{2}));
  const ModelConfig config =
      config_from_hf(with({{"eos_token_id", {5, 7}}}), {{"eos_token_id", {7, 9}}}, "config.json");
  EXPECT_EQ(config.eos_tokens, (std::vector<int32_t>{5, 7, 9}));
}

TEST(ConfigTest, EveryRopeScalingIsRead) {
  const RopeScaling linear =
      read(with({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}})).rope_scaling;
  EXPECT_EQ(linear.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(linear.factor, 2.0);
  const RopeScaling dynamic =
      read(with({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 4.0}}}})).rope_scaling;
  EXPECT_EQ(dynamic.kind, RopeScaling::Kind::kDynamic);
  EXPECT_EQ(dynamic.original_max_positions, 2048);
  const RopeScaling llama3 = read(with({{"rope_scaling",
                                         {{"rope_type", "llama3"},
                                          {"factor", 8.0},
                                          {"low_freq_factor", 1.5},
                                          {"high_freq_factor", 5.0},
                                          {"original_max_position_embeddings", 512}}}}))
                                 .rope_scaling;
  EXPECT_EQ(llama3.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(llama3.low_frequency_factor, 1.5);
  EXPECT_EQ(llama3.high_frequency_factor, 5.0);
  EXPECT_EQ(llama3.original_max_positions, 512);
  const RopeScaling yarn =
      read(with({{"rope_scaling",
                  {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}}}}))
          .rope_scaling;
  EXPECT_EQ(yarn.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(yarn.beta_fast, 32.0);
  EXPECT_EQ(yarn.attention_factor, 0.0);
  EXPECT_EQ(read(with({{"rope_scaling", {{"rope_type", "default"}}}})).rope_scaling.kind,
            RopeScaling::Kind::kNone);
}

TEST(ConfigTest, YarnWithScaleFieldsGivesTheirQuotient) {
  const RopeScaling yarn =
      read(with({{"rope_scaling",
                  {{"type", "yarn"}, {"factor", 40.0}, {"mscale", 1.0}, {"mscale_all_dim", 0.5}}}}))
          .rope_scaling;
  EXPECT_DOUBLE_EQ(yarn.attention_factor,
                   (0.1 * std::log(40.0) + 1.0) / (0.05 * std::log(40.0) + 1.0));
}

TEST(ConfigTest, RopeParametersOfNewerConfigsWin) {
  const ModelConfig config =
      read(with({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                 {"rope_theta", 5.0},
                 {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}));
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kNone);
}

TEST(ConfigTest, SlidingWindowsFollowTheirFamily) {
  const json mistral = with({{"architectures", {"MistralForCausalLM"}}, {"model_type", "mistral"}});
  EXPECT_EQ(read(mistral).sliding_window, 4096);
  json none = mistral;
  none["sliding_window"] = nullptr;
  EXPECT_EQ(read(none).sliding_window, 0);
  json some = mistral;
  some["sliding_window"] = 100;
  EXPECT_EQ(read(some).sliding_window, 100);
  // Qwen2 stores a window that it does not use.
  json qwen = with({{"architectures", {"Qwen2ForCausalLM"}},
                    {"sliding_window", 100},
                    {"use_sliding_window", false}});
  EXPECT_EQ(read(qwen).sliding_window, 0);
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 2;
  EXPECT_EQ(read(qwen).sliding_window, 0);  // no layer is left for it
  qwen["max_window_layers"] = 0;
  EXPECT_EQ(read(qwen).sliding_window, 100);
  qwen["max_window_layers"] = 1;
  D2Q_EXPECT_ERROR(read(qwen), ErrorCode::kUnsupported, "some layers only");
}

TEST(ConfigTest, WhatIsWrittenIsReadBack) {
  std::vector<json> configs = {base_config()};
  for (const char* architecture : {"MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    configs.push_back(with({{"architectures", {architecture}}}));
  }
  configs.push_back(with({{"eos_token_id", {3, 4}}, {"bos_token_id", 1}, {"rms_norm_eps", 1e-5}}));
  configs.push_back(with({{"architectures", {"Qwen3ForCausalLM"}},
                          {"use_sliding_window", true},
                          {"sliding_window", 64}}));
  for (const char* kind : {"linear", "dynamic", "llama3", "yarn"}) {
    configs.push_back(with({{"rope_scaling", {{"rope_type", kind}, {"factor", 2.5}}}}));
  }
  for (const json& config : configs) {
    const json written = config_to_hf(read(config));
    EXPECT_EQ(config_to_hf(read(written)), written);
    EXPECT_EQ(read(written).sliding_window, read(config).sliding_window);
    EXPECT_EQ(read(written).norm_epsilon, read(config).norm_epsilon);
    EXPECT_EQ(read(written).rope_scaling.original_max_positions,
              read(config).rope_scaling.original_max_positions);
  }
  EXPECT_EQ(config_to_hf(read(with({{"rms_norm_eps", 1e-5}})))["rms_norm_eps"].dump(), "1e-05");
}

TEST(ConfigTest, TheConfigOfAFolderIsItsFile) {
  const testing::TempFolder folder;
  folder.write("config.json", base_config().dump());
  EXPECT_EQ(read_hf_config(folder.path()), base_config());
  D2Q_EXPECT_ERROR(read_hf_config(folder.path() / "none"), ErrorCode::kNotFound, "none");
}

// One lie a config.
struct Lie {
  const char* name;
  json changes;
  ErrorCode code;
  const char* text;
};
void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }

json rope(const json& fields) { return {{"rope_scaling", fields}}; }

const std::vector<Lie> kLies = {
    {"UnknownArchitecture",
     {{"architectures", {"FalconForCausalLM"}}},
     ErrorCode::kUnsupported,
     "FalconForCausalLM"},
    {"ArchitectureIsNoList", {{"architectures", 5}}, ErrorCode::kCorrupt, "architectures"},
    {"NoHiddenSize", {{"hidden_size", nullptr}}, ErrorCode::kCorrupt, "hidden_size"},
    {"HiddenSizeIsText", {{"hidden_size", "64"}}, ErrorCode::kCorrupt, "not an integer"},
    {"HiddenSizeIsFractional", {{"hidden_size", 64.5}}, ErrorCode::kCorrupt, "not an integer"},
    {"HiddenSizeBeyondSigned",
     {{"hidden_size", 18446744073709551615u}},
     ErrorCode::kCorrupt,
     "not an integer"},
    {"HiddenSizeIsNegative",
     {{"hidden_size", -64}, {"head_dim", 16}},
     ErrorCode::kCorrupt,
     "hidden size"},
    {"TooManyLayers", {{"num_hidden_layers", 1'000'000}}, ErrorCode::kCorrupt, "layers"},
    {"NoHeads", {{"num_attention_heads", 0}}, ErrorCode::kCorrupt, "num_attention_heads"},
    {"HeadsThatDoNotDivide", {{"num_key_value_heads", 3}}, ErrorCode::kCorrupt, "multiple of 3"},
    {"MoreKvHeadsThanHeads", {{"num_key_value_heads", 8}}, ErrorCode::kCorrupt, "key-value"},
    {"OddHeads", {{"head_dim", 15}}, ErrorCode::kCorrupt, "odd"},
    {"HugeVocabulary", {{"vocab_size", int64_t{1} << 40}}, ErrorCode::kCorrupt, "vocabulary"},
    {"NegativeEpsilon", {{"rms_norm_eps", -1.0}}, ErrorCode::kCorrupt, "epsilon"},
    {"ThetaOfZero", {{"rope_theta", 0.0}}, ErrorCode::kCorrupt, "theta"},
    {"UnknownActivation", {{"hidden_act", "tanhexp"}}, ErrorCode::kUnsupported, "tanhexp"},
    {"TiedIsANumber", {{"tie_word_embeddings", 1}}, ErrorCode::kCorrupt, "tie_word_embeddings"},
    {"BeginTokenBeyondVocabulary", {{"bos_token_id", 1000}}, ErrorCode::kCorrupt, "bos_token_id"},
    {"NegativeEndToken", {{"eos_token_id", {1, -1}}}, ErrorCode::kCorrupt, "end token"},
    {"EndTokenIsText", {{"eos_token_id", "</s>"}}, ErrorCode::kCorrupt, "eos_token_id"},
    {"RopeIsAList", {{"rope_scaling", {1}}}, ErrorCode::kCorrupt, "object"},
    {"UnknownRope", rope({{"type", "spiral"}, {"factor", 2.0}}), ErrorCode::kUnsupported, "spiral"},
    {"LongropeWithoutFactors", rope({{"type", "longrope"}}), ErrorCode::kCorrupt,
     "number of longrope factors"},
    {"LongropeOfWords",
     rope({{"type", "longrope"}, {"short_factor", {"one"}}, {"long_factor", {1.0}}}),
     ErrorCode::kCorrupt, "list of numbers"},
    {"RopeWithoutFactor", rope({{"type", "linear"}}), ErrorCode::kCorrupt, "factor"},
    {"RopeFactorOfZero", rope({{"type", "linear"}, {"factor", 0.0}}), ErrorCode::kCorrupt,
     "factor"},
    {"Llama3WithEqualBounds",
     rope({{"type", "llama3"},
           {"factor", 8.0},
           {"low_freq_factor", 4.0},
           {"high_freq_factor", 4.0}}),
     ErrorCode::kCorrupt, "not above"},
    {"YarnFromNoPositions", rope({{"type", "yarn"}, {"original_max_position_embeddings", 0}}),
     ErrorCode::kCorrupt, "factor"},
    {"YarnWithoutTruncation", rope({{"type", "yarn"}, {"factor", 2.0}, {"truncate", false}}),
     ErrorCode::kUnsupported, "truncate"},
    {"RotationOfMoreThanAHead",
     {{"partial_rotary_factor", 1.5}},
     ErrorCode::kCorrupt,
     "partial_rotary_factor"},
    {"RotationOfNothing",
     {{"partial_rotary_factor", 0.1}},  // of 16 dimensions
     ErrorCode::kCorrupt,
     "number of rotated dimensions"},
    {"RopeByLayer",
     {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}}},
     ErrorCode::kUnsupported,
     "differ between layers"},
    {"AlreadyQuantized",
     {{"quantization_config", {{"quant_method", "gptq"}}}},
     ErrorCode::kUnsupported,
     "already quantized with 'gptq'"},
};

class ConfigLieTest : public ::testing::TestWithParam<Lie> {};

TEST_P(ConfigLieTest, IsRefusedWithItsReason) {
  D2Q_EXPECT_ERROR(read(with(GetParam().changes)), GetParam().code, GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(Lies, ConfigLieTest, ::testing::ValuesIn(kLies),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace d2q
