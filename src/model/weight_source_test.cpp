#include "model/weight_source.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "format/packed_container.h"
#include "format/testing/gguf_builder.h"

namespace d2q {
namespace {

using testing::GgufBuilder;
using testing::TempFolder;

constexpr uint64_t kHidden = 8, kInner = 16, kVocabulary = 4, kHeadDim = 4;  // 2 heads, 1 kv head

/// 0, 1, 2, ... so that every element tells where it came from.
std::vector<float> counting(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return values;
}

std::vector<float> values_of(const Matrix<float>& matrix) {
  return {matrix.span().begin(), matrix.span().end()};
}

// --- GGUF ---------------------------------------------------------------------------------------

GgufBuilder gguf_model(const std::string& architecture) {
  GgufBuilder builder;
  const std::string p = architecture + ".";
  builder.string("general.architecture", architecture);
  builder.u32(p + "block_count", 1).u32(p + "context_length", 64).u32(p + "embedding_length", 8);
  builder.u32(p + "feed_forward_length", 16).u32(p + "attention.head_count", 2);
  builder.u32(p + "attention.head_count_kv", 1);
  builder.f32(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  builder.tensor_f32("token_embd.weight", {kHidden, kVocabulary}, counting(32));
  return builder;
}

std::unique_ptr<WeightSource> open(const TempFolder& folder, const GgufBuilder& builder) {
  return open_model(folder.write("model.gguf", builder.build()));
}

// llama.cpp's converters store row 2j of a head from HF's row j, row 2j + 1 from j + head_dim/2.
TEST(GgufWeightSourceTest, RowsOfLlamaQueriesAndKeysComeBackInHfOrder) {
  const TempFolder folder;
  GgufBuilder builder = gguf_model("llama");
  builder.tensor_f32("blk.0.attn_q.weight", {kHidden, 2 * kHeadDim}, counting(64));
  builder.tensor_f32("blk.0.attn_k.bias", {kHeadDim}, {0, 1, 2, 3});
  builder.tensor_f32("blk.0.attn_v.weight", {kHidden, kHeadDim}, counting(32));
  const auto source = open(folder, builder);
  const Matrix<float> q = source->load("model.layers.0.self_attn.q_proj.weight");
  ASSERT_EQ(q.rows(), 8);
  const int64_t stored_row[] = {0, 2, 1, 3, 4, 6, 5, 7};
  for (int64_t r = 0; r < 8; ++r) {
    for (int64_t c = 0; c < 8; ++c) EXPECT_EQ(q(r, c), static_cast<float>(8 * stored_row[r] + c));
  }
  EXPECT_EQ(values_of(source->load("model.layers.0.self_attn.k_proj.bias")),
            (std::vector<float>{0, 2, 1, 3}));
  EXPECT_EQ(values_of(source->load("model.layers.0.self_attn.v_proj.weight")), counting(32));
}

TEST(GgufWeightSourceTest, RowsOfQwenQueriesStayAsTheyAre) {
  const TempFolder folder;
  GgufBuilder builder = gguf_model("qwen2");
  builder.tensor_f32("blk.0.attn_q.weight", {kHidden, 2 * kHeadDim}, counting(64));
  EXPECT_EQ(values_of(open(folder, builder)->load("model.layers.0.self_attn.q_proj.weight")),
            counting(64));
}

TEST(GgufWeightSourceTest, ATiedHeadIsTheEmbedding) {
  const TempFolder folder;
  const auto source = open(folder, gguf_model("llama"));
  EXPECT_EQ(source->format(), "gguf");
  EXPECT_TRUE(source->has("lm_head.weight"));
  EXPECT_EQ(values_of(source->load("lm_head.weight")), counting(32));
  EXPECT_EQ(source->packed("lm_head.weight"), std::nullopt);
}

TEST(GgufWeightSourceTest, AVectorIsOneRow) {
  const TempFolder folder;
  GgufBuilder builder = gguf_model("llama");
  builder.tensor_f32("output_norm.weight", {kHidden}, counting(8));
  const Matrix<float> norm = open(folder, builder)->load("model.norm.weight");
  EXPECT_EQ(norm.rows(), 1);
  EXPECT_EQ(norm.cols(), 8);
}

TEST(GgufWeightSourceTest, MissingMisshapenAndBrokenTensorsAreNamed) {
  const TempFolder folder;
  GgufBuilder builder = gguf_model("llama");
  builder.tensor_f32("blk.0.ffn_up.weight", {kInner, kHidden}, counting(128));  // transposed
  std::vector<float> broken = counting(128);
  broken[77] = std::numeric_limits<float>::quiet_NaN();
  builder.tensor_f32("blk.0.ffn_down.weight", {kInner, kHidden}, broken);
  std::vector<float> infinite = counting(64);
  infinite[8 * 2 + 3] = -std::numeric_limits<float>::infinity();  // stored row 2 is HF's row 1
  builder.tensor_f32("blk.0.attn_q.weight", {kHidden, 8}, infinite);
  const auto source = open(folder, builder);
  D2Q_EXPECT_ERROR(source->load("model.layers.0.mlp.gate_proj.weight"), ErrorCode::kNotFound,
                   "model.layers.0.mlp.gate_proj.weight");
  EXPECT_FALSE(source->has("model.layers.0.mlp.gate_proj.weight"));
  EXPECT_FALSE(source->has("no such name"));
  D2Q_EXPECT_ERROR(source->load("model.layers.0.mlp.up_proj.weight"), ErrorCode::kCorrupt,
                   "[8, 16], the configuration says [16, 8]");
  D2Q_EXPECT_ERROR(source->load("model.layers.0.mlp.down_proj.weight"), ErrorCode::kNumeric,
                   "nan at index 77");
  D2Q_EXPECT_ERROR(source->load("model.layers.0.self_attn.q_proj.weight"), ErrorCode::kNumeric,
                   "-inf at index 11");
}

// --- HF -----------------------------------------------------------------------------------------

nlohmann::json hf_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", kHidden},
          {"intermediate_size", kInner},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"vocab_size", kVocabulary},
          {"max_position_embeddings", 64}};
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

struct StoredTensor {
  SafetensorsSpec spec;
  std::string bytes;
};

template <typename T>
StoredTensor stored(const std::string& name, SafetensorsType type, std::vector<int64_t> shape,
                    const std::vector<T>& values) {
  const auto bytes = bytes_of(values);
  return {{name, type, std::move(shape)},
          {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
}

void write_tensors(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                   const std::map<std::string, std::string>& metadata = {}) {
  std::vector<SafetensorsSpec> specs;
  for (const StoredTensor& tensor : tensors) specs.push_back(tensor.spec);
  SafetensorsWriter writer(path, specs, metadata);
  for (const StoredTensor& tensor : tensors) {
    writer.write(tensor.spec.name, std::as_bytes(std::span(tensor.bytes)));
  }
  writer.finish();
}

TEST(HfWeightSourceTest, EveryFloatTypeIsReadFromItsShard) {
  const TempFolder folder;
  folder.write("config.json", hf_config().dump());
  folder.write("generation_config.json", R"({"eos_token_id": [2, 3]})");
  const std::vector<float> values = counting(128);
  std::vector<Half> halves;
  std::vector<BFloat16> brains;
  std::vector<double> doubles;
  for (const float value : values) {
    halves.push_back(to_half(value));  // 0 ... 127 are exact in both
    brains.push_back(to_bfloat16(value));
    doubles.push_back(value);
  }
  const std::string mlp = "model.layers.0.mlp.";
  write_tensors(folder.path() / "a.safetensors",
                {stored(mlp + "gate_proj.weight", SafetensorsType::kF32, {16, 8}, values),
                 stored(mlp + "up_proj.weight", SafetensorsType::kF16, {16, 8}, halves)});
  write_tensors(folder.path() / "b.safetensors",
                {stored(mlp + "down_proj.weight", SafetensorsType::kBF16, {8, 16}, brains),
                 stored("other", SafetensorsType::kF64, {128}, doubles),
                 stored("bytes", SafetensorsType::kU8, {4}, std::vector<uint8_t>(4))});
  write_safetensors_index(folder.path(), {"a.safetensors", "b.safetensors"});
  const auto source = open_model(folder.path());
  EXPECT_EQ(source->format(), "hf");
  EXPECT_EQ(source->config().eos_tokens, (std::vector<int32_t>{2, 3}));
  for (const std::string& name :
       {mlp + "gate_proj.weight", mlp + "up_proj.weight", mlp + "down_proj.weight"}) {
    EXPECT_EQ(values_of(source->load(name)), values) << name;
    EXPECT_EQ(source->packed(name), std::nullopt);
  }
  EXPECT_EQ(source->load("other").rows(), 1);
  D2Q_EXPECT_ERROR(source->load("bytes"), ErrorCode::kUnsupported, "U8");
  D2Q_EXPECT_ERROR(source->load("none"), ErrorCode::kNotFound, "'none'");
}

TEST(HfWeightSourceTest, TheHeadIsTheEmbeddingOnlyWhenTied) {
  const auto embedding =
      stored("model.embed_tokens.weight", SafetensorsType::kF32, {4, 8}, counting(32));
  for (const bool tied : {true, false}) {
    const TempFolder folder;
    nlohmann::json config = hf_config();
    config["tie_word_embeddings"] = tied;
    folder.write("config.json", config.dump());
    write_tensors(folder.path() / "model.safetensors", {embedding});
    EXPECT_EQ(open_model(folder.path())->has("lm_head.weight"), tied);
  }
}

TEST(HfWeightSourceTest, MisshapenAndBrokenTensorsAreNamedWithTheirFile) {
  const TempFolder folder;
  folder.write("config.json", hf_config().dump());
  std::vector<Half> broken(8);
  broken[5].bits = 0x7c00;
  write_tensors(folder.path() / "model.safetensors",
                {stored("model.norm.weight", SafetensorsType::kF16, {8}, broken),
                 stored("model.embed_tokens.weight", SafetensorsType::kF32, {8, 4}, counting(32))});
  const auto source = open_model(folder.path());
  D2Q_EXPECT_ERROR(source->load("model.norm.weight"), ErrorCode::kNumeric, "inf at index 5");
  D2Q_EXPECT_ERROR(source->load("model.embed_tokens.weight"), ErrorCode::kCorrupt,
                   "model.safetensors");
}

TEST(HfWeightSourceTest, PartsOfFusedMatricesAreTheirRows) {
  const TempFolder folder;
  nlohmann::json config = hf_config();
  config["architectures"] = {"Phi3ForCausalLM"};
  folder.write("config.json", config.dump());
  write_tensors(folder.path() / "model.safetensors",
                {stored("model.layers.0.self_attn.qkv_proj.weight", SafetensorsType::kF32, {16, 8},
                        counting(128)),
                 stored("model.layers.0.mlp.gate_up_proj.weight", SafetensorsType::kF32, {32, 8},
                        counting(256))});
  const auto source = open_model(folder.path());
  const auto first_of = [&](const char* name) {
    const Matrix<float> matrix = source->load(name);
    return std::tuple(matrix.rows(), matrix.cols(), matrix(0, 0));
  };
  EXPECT_EQ(first_of("model.layers.0.self_attn.q_proj.weight"), std::tuple(8, 8, 0.0f));
  EXPECT_EQ(first_of("model.layers.0.self_attn.k_proj.weight"), std::tuple(4, 8, 64.0f));
  EXPECT_EQ(first_of("model.layers.0.self_attn.v_proj.weight"), std::tuple(4, 8, 96.0f));
  EXPECT_EQ(first_of("model.layers.0.mlp.gate_proj.weight"), std::tuple(16, 8, 0.0f));
  EXPECT_EQ(first_of("model.layers.0.mlp.up_proj.weight"), std::tuple(16, 8, 128.0f));
  EXPECT_TRUE(source->has("model.layers.0.mlp.up_proj.weight"));
  EXPECT_FALSE(source->has("model.layers.0.mlp.up_proj.bias"));
  EXPECT_FALSE(source->has("model.layers.1.mlp.up_proj.weight"));
  D2Q_EXPECT_ERROR(source->load("model.layers.1.mlp.up_proj.weight"), ErrorCode::kNotFound,
                   "model.layers.1.mlp.up_proj.weight");
}

TEST(GgufWeightSourceTest, PartsOfFusedMatricesAreTheirRows) {
  const TempFolder folder;
  GgufBuilder builder = gguf_model("phi3");
  builder.tensor_f32("blk.0.attn_qkv.weight", {kHidden, 16}, counting(128));
  builder.tensor_f32("blk.0.ffn_up.weight", {kHidden, 2 * kInner}, counting(256));
  const auto source = open(folder, builder);
  EXPECT_EQ(source->load("model.layers.0.self_attn.k_proj.weight")(0, 0), 64.0f);
  EXPECT_EQ(source->load("model.layers.0.self_attn.k_proj.weight").rows(), 4);
  EXPECT_EQ(source->load("model.layers.0.mlp.gate_proj.weight")(0, 0), 0.0f);
  EXPECT_EQ(source->load("model.layers.0.mlp.up_proj.weight")(0, 0), 128.0f);
}

// --- d2quant ------------------------------------------------------------------------------------

constexpr const char* kDown = "model.layers.0.mlp.down_proj.weight";

nlohmann::json packed_config(int version) {
  nlohmann::json config = hf_config();
  config["quantization_config"] = {{"quant_method", "d2quant"}, {"format_version", version}};
  return config;
}

void write_packed(const TempFolder& folder, const PackedLayout& layout) {
  std::vector<uint8_t> codes(static_cast<size_t>(layout.rows * layout.cols));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % 4);
  const std::vector<float> params(
      static_cast<size_t>(layout.rows * layout.n_groups() * layout.n_params()), 0.5f);
  std::vector<uint8_t> packed_codes(static_cast<size_t>(codes_bytes(layout)));
  std::vector<Half> packed_scales(static_cast<size_t>(scales_count(layout)));
  pack(layout, codes, params, packed_codes, packed_scales);
  const auto specs = packed_specs(kDown, layout);
  write_tensors(folder.path() / "model.safetensors",
                {stored(specs[0].name, specs[0].type, specs[0].shape, packed_codes),
                 stored(specs[1].name, specs[1].type, specs[1].shape, packed_scales)},
                {{packed_layout_key(kDown), packed_layout_to_string(layout)}});
}

TEST(PackedWeightSourceTest, PackedLinearsAreViewsAndLoadAsTheirWeights) {
  const TempFolder folder;
  const PackedLayout layout = {PackedKind::kSignPlanes, 2, kHidden, kInner, 16};
  folder.write("config.json", packed_config(1).dump());
  write_packed(folder, layout);
  const auto source = open_model(folder.path());
  EXPECT_EQ(source->format(), "d2quant");
  EXPECT_TRUE(source->has(kDown));
  const auto view = source->packed(kDown);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->layout, layout);
  std::vector<float> expected(kHidden * kInner);
  dequantize(*view, expected);
  EXPECT_EQ(values_of(source->load(kDown)), expected);
  EXPECT_EQ(source->packed("model.norm.weight"), std::nullopt);
  EXPECT_FALSE(source->has("model.norm.weight"));
}

TEST(PackedWeightSourceTest, ALayoutOfAnotherShapeIsRefused) {
  const TempFolder folder;
  folder.write("config.json", packed_config(1).dump());
  write_packed(folder, {PackedKind::kUniform, 2, kInner, kHidden, 8});
  const auto source = open_model(folder.path());
  D2Q_EXPECT_ERROR(source->packed(kDown), ErrorCode::kCorrupt, "[16, 8]");
}

TEST(PackedWeightSourceTest, ANewerVersionIsRefused) {
  const TempFolder folder;
  folder.write("config.json", packed_config(2).dump());
  write_packed(folder, {PackedKind::kUniform, 2, kHidden, kInner, 8});
  D2Q_EXPECT_ERROR(open_model(folder.path()), ErrorCode::kUnsupported, "version 2");
  nlohmann::json config = packed_config(1);
  config["quantization_config"].erase("format_version");
  folder.write("config.json", config.dump());
  D2Q_EXPECT_ERROR(open_model(folder.path()), ErrorCode::kCorrupt, "format_version");
}

// --- finding out which --------------------------------------------------------------------------

TEST(OpenModelTest, SaysWhatIsWrongWithThePath) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(open_model(folder.path() / "none"), ErrorCode::kNotFound, "none");
  D2Q_EXPECT_ERROR(open_model(folder.path()), ErrorCode::kNotFound, "config.json");
  D2Q_EXPECT_ERROR(open_model(folder.write("notes.txt", "some text")), ErrorCode::kCorrupt, "GGUF");
  folder.write("config.json", hf_config().dump());
  D2Q_EXPECT_ERROR(open_model(folder.path()), ErrorCode::kNotFound, "model.safetensors");
}

}  // namespace
}  // namespace d2q
