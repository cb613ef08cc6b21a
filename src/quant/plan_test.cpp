// What a run costs, for models whose files are only pretended: sparse, so that no byte of a weight
// exists.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/testing/temp_folder.h"
#include "format/safetensors_header.h"
#include "model/weight_source.h"
#include "model/weight_source_checks.h"
#include "quant/pipeline.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

/// LLaMA 3.1 70B's shape with a vocabulary of 262,144 and a context of 131,072.
ModelConfig large_config() {
  ModelConfig config;
  config.family = "llama";
  config.hidden_size = 8192;
  config.intermediate_size = 28672;
  config.n_layers = 80;
  config.n_heads = 64;
  config.n_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 262'144;
  config.max_positions = 131'072;
  config.rope_theta = 500000.0;
  return config;
}

/// One bf16 file of 145 GB that takes some KiB of disk. Embedding and head are 4 GiB each.
void write_sparse_model(const fs::path& folder, const ModelConfig& config) {
  fs::create_directories(folder);
  write_file_atomically(folder / "config.json", config_to_hf(config).dump());
  std::vector<SafetensorsSpec> specs;
  uint64_t n_bytes = 0;
  const auto add = [&](const std::string& name) {
    specs.push_back({name, SafetensorsType::kBF16, expected_shape(config, name)});
    n_bytes += safetensors_bytes(specs.back().type, specs.back().shape, name);
  };
  add("model.embed_tokens.weight");
  for (int64_t layer = 0; layer < config.n_layers; ++layer) {
    for (const char* part : {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                             "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      add("model.layers." + std::to_string(layer) + "." + part + ".weight");
    }
  }
  add("model.norm.weight");
  add("lm_head.weight");
  const std::string header = make_safetensors_header(specs, {});
  write_file_atomically(folder / "model.safetensors", header);
  fs::resize_file(folder / "model.safetensors", header.size() + n_bytes);
}

class PlanOfALargeModel : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      write_sparse_model(model_, config_);
    } catch (const fs::filesystem_error&) {
      GTEST_SKIP() << "the file system has no sparse files of 145 GB";
    }
  }
  const testing::TempFolder folder_;
  const ModelConfig config_ = large_config();
  const fs::path model_ = folder_.path() / "model";
};

TEST_F(PlanOfALargeModel, FollowsTheFormulaOfItsMemory) {
  const ModelConfig& c = config_;
  QuantizeOptions options = preset_options("paper");
  options.calibration = "self";
  options.products = DType::kBF16;
  const QuantizePlan plan = plan_quantization(model_, options);

  // docs/architecture.md, with the asymmetric term and the correction of deviations.
  const int64_t tokens = options.samples * options.sequence_length;
  const int64_t d = c.hidden_size, a = c.n_heads * c.head_dim, f = c.intermediate_size;
  const int64_t k = c.n_kv_heads * c.head_dim;
  const int64_t block = 2 * d * a + 2 * d * k + 3 * d * f;
  const int64_t streams = tokens * 4 * d * 2;
  const int64_t caches = tokens * 2 * (a + f + 2 * d + d);
  EXPECT_EQ(plan.peak_memory_bytes, streams + caches + 8 * block + 40 * f * f);
  // Two scales of 16 bits for 128 weights of 2 bits; the embedding and the head in 16 bits.
  EXPECT_DOUBLE_EQ(plan.bits_per_weight, 2.25);
  const int64_t linears = 80 * block;
  EXPECT_EQ(plan.output_bytes,
            linears * 9 / 32 + 2 * 2 * c.vocab_size * d + 8 * d * (2 * c.n_layers + 1));
  // Rounding alone holds one tensor, here of 8 GiB in f32, and what is written of it.
  options.method = QuantMethod::kRtn;
  options.calibration.clear();
  EXPECT_EQ(plan_quantization(model_, options).peak_memory_bytes, 6 * c.vocab_size * d);
  // Where the calibration is small, the embedding is what counts: beside the streams that it
  // begins, and with its copy in the device's memory.
  options = preset_options("paper");
  options.calibration = "text";
  options.products = DType::kBF16;
  options.samples = 1;
  options.sequence_length = 64;
  options.rotation = RotationKind::kNone;
  const int64_t check = 6 * c.vocab_size * d + 8 * block + 256 * (c.vocab_size + 24 * d + 12 * f);
  EXPECT_EQ(plan_quantization(model_, options).peak_memory_bytes,
            std::max({8 * block + 40 * f * f + 64 * (8 * d + 2 * (a + f + 3 * d)),
                      8 * c.vocab_size * d, check}));
}

TEST_F(PlanOfALargeModel, TensorsBeyondFourGibibytesAreReadAtTheirPlace) {
  const ModelConfig& c = config_;
  const SafetensorsFile file(model_ / "model.safetensors");
  const SafetensorsTensor* head = file.find("lm_head.weight");
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->bytes.size(), uint64_t{1} << 32);
  EXPECT_EQ(head->bytes.back(), std::byte{0});
  // The final norm lies behind 140 GB.
  const Matrix<float> norm = open_model(model_)->load("model.norm.weight");
  EXPECT_EQ(norm.cols(), c.hidden_size);
  EXPECT_EQ(norm(0, c.hidden_size - 1), 0.0f);
}

TEST(Plan, TuningAtTheEndKeepsWhatFitsIntoTheMemoryOfTheBlocks) {
  ModelConfig c = large_config();  // LLaMA 3.1 8B's shape from here on
  c.hidden_size = 4096;
  c.intermediate_size = 14336;
  c.n_layers = 32;
  c.n_heads = 32;
  c.vocab_size = 128'256;
  QuantizeOptions options = preset_options("best");
  options.calibration = "self";
  options.products = DType::kBF16;
  const QuantizePlan plan = plan_quantization(c, options);
  EXPECT_GT(plan.end_tune_kept_blocks, 0);
  EXPECT_LT(plan.end_tune_kept_blocks, c.n_layers);
  // Larger steps leave room for fewer blocks, and less calibration does.
  QuantizeOptions larger = options;
  larger.end_tune_windows = 4;
  EXPECT_LT(plan_quantization(c, larger).end_tune_kept_blocks, plan.end_tune_kept_blocks);
  options.samples = 8;
  EXPECT_EQ(plan_quantization(c, options).end_tune_kept_blocks, 0);
  options.samples = 128;
  options.end_tune_steps = 0;
  EXPECT_EQ(plan_quantization(c, options).end_tune_kept_blocks, 0);
  // All of a few blocks fit.
  options = preset_options("best");
  options.calibration = "self";
  c.n_layers = 2;
  const QuantizePlan all = plan_quantization(c, options);
  EXPECT_EQ(all.end_tune_kept_blocks, 2);
}

}  // namespace
}  // namespace d2q
