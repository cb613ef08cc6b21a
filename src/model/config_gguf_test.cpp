#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "format/testing/gguf_builder.h"
#include "model/config.h"
#include "model/config_fields.h"

namespace d2q {
namespace {

using testing::GgufBuilder;
using testing::TempFolder;

GgufBuilder base_file(const std::string& architecture = "llama") {
  GgufBuilder builder;
  const std::string p = architecture + ".";
  builder.string("general.architecture", architecture);
  builder.u32(p + "block_count", 2).u32(p + "context_length", 131072);
  builder.u32(p + "embedding_length", 16).u32(p + "feed_forward_length", 32);
  builder.u32(p + "attention.head_count", 2).f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  builder.tensor_f32("token_embd.weight", {16, 3}, std::vector<float>(48));
  return builder;
}

ModelConfig read(const GgufBuilder& builder) {
  const TempFolder folder;
  return config_from_gguf(GgufFile(folder.write("model.gguf", builder.build())));
}

TEST(GgufConfigTest, ReadsTheMetadataOfTheArchitecture) {
  GgufBuilder builder = base_file("qwen3");
  builder.u32("qwen3.attention.head_count_kv", 1).u32("qwen3.attention.key_length", 10);
  builder.u32("qwen3.attention.value_length", 10).f32("qwen3.rope.freq_base", 1e6f);
  builder.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
  builder.u32("tokenizer.ggml.eot_token_id", 0).u32("tokenizer.ggml.eom_token_id", 2);
  const ModelConfig config = read(builder);
  EXPECT_EQ(config.family, "qwen3");
  EXPECT_EQ(config.hidden_size, 16);
  EXPECT_EQ(config.intermediate_size, 32);
  EXPECT_EQ(config.n_layers, 2);
  EXPECT_EQ(config.n_heads, 2);
  EXPECT_EQ(config.n_kv_heads, 1);
  EXPECT_EQ(config.head_dim, 10);
  EXPECT_EQ(config.vocab_size, 3);
  EXPECT_EQ(config.max_positions, 131072);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.norm_epsilon, 1e-5f);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.bos_token, 1);
  EXPECT_EQ(config.eos_tokens, (std::vector<int32_t>{2, 0}));
}

TEST(GgufConfigTest, AHeadOfItsOwnUntiesTheEmbedding) {
  GgufBuilder builder = base_file();
  builder.tensor_f32("output.weight", {16, 3}, std::vector<float>(48));
  EXPECT_FALSE(read(builder).tied_embeddings);
}

TEST(GgufConfigTest, LinearAndYarnScalingsAreRead) {
  GgufBuilder linear = base_file();
  linear.string("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(read(linear).rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(read(linear).rope_scaling.factor, 4.0);
  GgufBuilder old = base_file();
  old.f32("llama.rope.scale_linear", 2.0f);
  EXPECT_EQ(read(old).rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(read(old).rope_scaling.factor, 2.0);
  GgufBuilder yarn = base_file();
  yarn.string("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0f);
  yarn.u32("llama.rope.scaling.original_context_length", 32768);
  yarn.f32("llama.rope.scaling.attn_factor", 0.5f);
  EXPECT_EQ(read(yarn).rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(read(yarn).rope_scaling.original_max_positions, 32768);
  EXPECT_DOUBLE_EQ(read(yarn).rope_scaling.attention_factor, 0.5 * (0.1 * std::log(4.0) + 1.0));
  GgufBuilder none = base_file();
  none.string("llama.rope.scaling.type", "none").f32("llama.rope.scaling.factor", 4.0f);
  EXPECT_EQ(read(none).rope_scaling.kind, RopeScaling::Kind::kNone);
}

/// LLaMA 3.1's table for heads of 8: theta 5e5, factor 8, bounds 1 and 4, 8192 positions.
/// Wavelengths 2π·theta^(i/4) are 6.3, 167, 4443 and 118,143: the third lies on the ramp between
/// 2048 and 8192.
std::vector<float> llama3_table() {
  const double smooth = (8192.0 / (2.0 * M_PI * std::sqrt(5e5)) - 1.0) / 3.0;
  return {1.0f, 1.0f, static_cast<float>(1.0 / ((1.0 - smooth) / 8.0 + smooth)), 8.0f};
}

TEST(GgufConfigTest, TheTableOfLlama3IsRecognised) {
  GgufBuilder builder = base_file();
  builder.f32("llama.rope.freq_base", 5e5f);
  builder.tensor_f32("rope_freqs.weight", {4}, llama3_table());
  const RopeScaling rope = read(builder).rope_scaling;
  EXPECT_EQ(rope.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(rope.factor, 8.0);
  EXPECT_EQ(rope.low_frequency_factor, 1.0);
  EXPECT_EQ(rope.high_frequency_factor, 4.0);
  EXPECT_EQ(rope.original_max_positions, 8192);
}

TEST(GgufConfigTest, TheTableOfLlama3CountsTheDimensionsThatRotate) {
  ModelConfig config;
  config.head_dim = 16;
  config.rotary_dim = 8;
  config.rope_theta = 5e5;
  RopeScaling rope;
  rope.factor = 8.0;
  rope.original_max_positions = 8192;
  const std::vector<float> table = llama3_table();
  for (size_t i = 0; i < table.size(); ++i)
    EXPECT_FLOAT_EQ(static_cast<float>(llama3_divisor(config, rope, static_cast<int64_t>(i))),
                    table[i]);
}

TEST(GgufConfigTest, AnotherTableIsRefusedRatherThanGuessed) {
  GgufBuilder builder = base_file();
  builder.f32("llama.rope.freq_base", 5e5f);
  std::vector<float> table = llama3_table();
  table[2] *= 1.01f;
  builder.tensor_f32("rope_freqs.weight", {4}, table);
  D2Q_EXPECT_ERROR(read(builder), ErrorCode::kUnsupported, "'rope_freqs.weight'[2]");
  GgufBuilder not_a_number = base_file();
  not_a_number.tensor_f32("rope_freqs.weight", {4}, {1, 1, std::nanf(""), 8});
  D2Q_EXPECT_ERROR(read(not_a_number), ErrorCode::kUnsupported, "rope_freqs");
  GgufBuilder other_size = base_file();
  other_size.tensor_f32("rope_freqs.weight", {3}, {1, 1, 8});
  D2Q_EXPECT_ERROR(read(other_size), ErrorCode::kCorrupt, "3 elements");
}

TEST(GgufConfigTest, ATableOfOnesIsNoScaling) {
  GgufBuilder builder = base_file();
  builder.tensor_f32("rope_freqs.weight", {4}, {1, 1, 1, 1});
  EXPECT_EQ(read(builder).rope_scaling.kind, RopeScaling::Kind::kNone);
}

TEST(GgufConfigTest, TheConfigOfAFileIsMadeFromItsMetadata) {
  const TempFolder folder;
  const auto path = folder.write("model.gguf", base_file().build());
  const nlohmann::json config = read_hf_config(path);
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["vocab_size"], 3);
  EXPECT_EQ(config_to_hf(config_from_hf(config, nullptr, "x")), config);
}

// One lie a file.
struct Lie {
  const char* name;
  std::function<void(GgufBuilder&)> change;
  ErrorCode code;
  const char* text;
};
void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }

const std::vector<Lie> kLies = {
    {"Mixture", [](GgufBuilder& b) { b.u32("llama.expert_count", 8); }, ErrorCode::kUnsupported,
     "mixture"},
    {"Split", [](GgufBuilder& b) { b.value("split.count", 2, uint16_t{3}); },
     ErrorCode::kUnsupported, "3 split files"},
    {"HeadsByLayer",
     [](GgufBuilder& b) {
       b.i32_array("llama.attention.head_count_kv", {1, 2});
     },
     ErrorCode::kUnsupported, "head_count_kv"},
    {"OtherValueSize", [](GgufBuilder& b) { b.u32("llama.attention.value_length", 4); },
     ErrorCode::kUnsupported, "values of 4"},
    {"RotationOfMoreThanAHead", [](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 400); },
     ErrorCode::kCorrupt, "rotated"},
    {"UnknownScaling", [](GgufBuilder& b) { b.string("llama.rope.scaling.type", "longrope"); },
     ErrorCode::kUnsupported, "longrope"},
    {"HeadsOfNothing", [](GgufBuilder& b) { b.u32("llama.attention.key_length", 0); },
     ErrorCode::kCorrupt, "head size"},
    {"BeginTokenBeyondVocabulary", [](GgufBuilder& b) { b.u32("tokenizer.ggml.bos_token_id", 3); },
     ErrorCode::kCorrupt, "bos_token_id"},
    {"NanTheta", [](GgufBuilder& b) { b.f32("llama.rope.freq_base", std::nanf("")); },
     ErrorCode::kCorrupt, "theta"},
    {"HugeWindow",
     [](GgufBuilder& b) { b.value("llama.attention.sliding_window", 10, uint64_t{1} << 40); },
     ErrorCode::kCorrupt, "window"},
};

class GgufConfigLieTest : public ::testing::TestWithParam<Lie> {};

TEST_P(GgufConfigLieTest, IsRefusedWithItsReason) {
  GgufBuilder builder = base_file();
  GetParam().change(builder);
  D2Q_EXPECT_ERROR(read(builder), GetParam().code, GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(Lies, GgufConfigLieTest, ::testing::ValuesIn(kLies),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(GgufConfigTest, MissingPartsAreNamed) {
  GgufBuilder empty;
  D2Q_EXPECT_ERROR(read(empty), ErrorCode::kCorrupt, "general.architecture");
  GgufBuilder unknown;
  unknown.string("general.architecture", "falcon");
  D2Q_EXPECT_ERROR(read(unknown), ErrorCode::kUnsupported, "falcon");
  GgufBuilder no_embedding;
  no_embedding.string("general.architecture", "llama");
  D2Q_EXPECT_ERROR(read(no_embedding), ErrorCode::kCorrupt, "token_embd");
  GgufBuilder no_sizes;
  no_sizes.string("general.architecture", "llama");
  no_sizes.tensor_f32("token_embd.weight", {2, 1}, {0, 0});
  D2Q_EXPECT_ERROR(read(no_sizes), ErrorCode::kCorrupt, "llama.embedding_length");
}

}  // namespace
}  // namespace d2q
