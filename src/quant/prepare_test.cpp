#include "quant/prepare.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "base/testing/expect_error.h"
#include "model/family.h"
#include "model/transformer.h"
#include "quant/testing/tiny_model.h"

namespace d2q {
namespace {

class PrepareTest : public ::testing::Test {
 protected:
  Tensor logits(std::shared_ptr<const WeightSource> source) {
    const auto ids = test::random_ids(2 * 12, source->config().vocab_size);
    Transformer model(*device_, std::move(source), DType::kF32);
    return model.forward(ids, 12);
  }

  /// Sums of up to 80 products in f32, through two blocks: a few hundred roundings of 2^-24 on
  /// numbers of one size stay below 1e-4.
  void expect_same_logits(const std::shared_ptr<const WeightSource>& base, Rotation rotation) {
    const auto prepared = std::make_shared<PreparedSource>(base, std::move(rotation), pool_);
    EXPECT_FALSE(prepared->config().tied_embeddings);
    EXPECT_LE(test::relative_difference(logits(prepared), logits(base)), 1e-4)
        << base->config().family;
  }

  static std::shared_ptr<const WeightSource> stored(const std::string& name) {
    return open_model(std::filesystem::path(D2Q_TEST_DATA) / name);
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(PrepareTest, ABlockRotationLeavesTheLogitsOfEveryFamily) {
  for (const Family& family : families()) {
    const auto base =
        std::make_shared<test::FakeWeights>(test::tiny_config(std::string(family.name)));
    for (const int64_t block : {1, 4, 16}) {
      const Rotation rotation = Rotation::block_diagonal(48, block, 5);
      expect_same_logits(base,
                         family.norm == NormKind::kLayer ? rotation.keeping_mean() : rotation);
    }
  }
}

TEST_F(PrepareTest, AFullRotationOfAWidthThatIsNoPowerOfTwoLeavesTheLogits) {
  expect_same_logits(std::make_shared<test::FakeWeights>(test::tiny_config()),
                     Rotation::full(48, 5));
}

TEST_F(PrepareTest, TiedModelsAreUntiedAndKeepTheirLogits) {
  const auto base = stored("logits_llama_tied");
  ASSERT_TRUE(base->config().tied_embeddings);
  expect_same_logits(base, Rotation::block_diagonal(32, 32, 1));
  expect_same_logits(base, Rotation::full(32, 2));
}

TEST_F(PrepareTest, StoredModelsWithBiasesAndHeadNormsKeepTheirLogits) {
  for (const char* name :
       {"logits_llama", "logits_llama_biases", "logits_qwen2", "logits_qwen3", "logits_phi3"}) {
    expect_same_logits(stored(name), Rotation::block_diagonal(32, 8, 3));
  }
  expect_same_logits(stored("logits_opt"), Rotation::block_diagonal(32, 8, 3).keeping_mean());
  expect_same_logits(stored("logits_opt"), Rotation::full(32, 3).keeping_mean());
}

TEST_F(PrepareTest, NormsThatSubtractAMeanNeedARotationThatKeepsIt) {
  EXPECT_THROW(PreparedSource(stored("logits_opt"), Rotation::full(32, 1), pool_), InternalError);
}

TEST_F(PrepareTest, ABiasOfAWriterIsRotatedWithTheStream) {
  // o_proj and down_proj with biases, which none of the families' usual models have.
  class Biased final : public WeightSource {
   public:
    const ModelConfig& config() const override { return base_.config(); }
    std::string format() const override { return "fake"; }
    bool has(const std::string& name) const override { return is_bias(name) || base_.has(name); }
    Matrix<float> load(const std::string& name) const override {
      if (!is_bias(name)) return base_.load(name);
      Matrix<float> bias(1, config().hidden_size);
      for (int64_t j = 0; j < bias.cols(); ++j) bias(0, j) = 0.1f * static_cast<float>(j % 7 - 2);
      return bias;
    }
    std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

   private:
    static bool is_bias(const std::string& name) {
      return name.ends_with("o_proj.bias") || name.ends_with("down_proj.bias");
    }
    test::FakeWeights base_{test::tiny_config()};
  };
  const auto base = std::make_shared<Biased>();
  expect_same_logits(base, Rotation::block_diagonal(48, 16, 4));
  // The biases do something, so the test above says something.
  const auto plain = std::make_shared<test::FakeWeights>(test::tiny_config());
  EXPECT_GT(test::relative_difference(logits(base), logits(plain)), 1e-2);
}

TEST_F(PrepareTest, NormsHaveGainOneAndTheWeightsAreRotated) {
  const auto base = std::make_shared<test::FakeWeights>(test::tiny_config());
  const PreparedSource prepared(base, Rotation::block_diagonal(48, 16, 5), pool_);
  for (const char* norm : {"model.norm.weight", "model.layers.1.input_layernorm.weight",
                           "model.layers.0.post_attention_layernorm.weight"}) {
    const Matrix<float> gains = prepared.load(norm);
    for (const float gain : gains.span()) EXPECT_EQ(gain, 1.0f) << norm;
  }
  const std::string weight = "model.layers.0.mlp.down_proj.weight";
  const Matrix<float> before = base->load(weight);
  const Matrix<float> after = prepared.load(weight);
  double norm_before = 0.0;
  double norm_after = 0.0;
  double moved = 0.0;
  for (int64_t i = 0; i < before.size(); ++i) {
    const auto b = static_cast<double>(before.data()[i]);
    const auto a = static_cast<double>(after.data()[i]);
    norm_before += b * b;
    norm_after += a * a;
    moved += (a - b) * (a - b);
  }
  EXPECT_NEAR(norm_after / norm_before, 1.0, 1e-6);  // 3840 roundings of 2^-24, random signs
  EXPECT_GT(moved / norm_before, 0.1);
}

TEST_F(PrepareTest, AShiftOfANormMovesIntoItsReadersAndTheFinalOneIntoTheRotatedChannels) {
  class Shifted final : public WeightSource {
   public:
    explicit Shifted(float final_gain) : final_gain_(final_gain) {}
    const ModelConfig& config() const override { return base_.config(); }
    std::string format() const override { return "fake"; }
    bool has(const std::string& name) const override { return is_shift(name) || base_.has(name); }
    Matrix<float> load(const std::string& name) const override {
      if (!is_shift(name)) {
        Matrix<float> matrix = base_.load(name);
        if (name == "model.norm.weight") matrix(0, 3) = final_gain_;
        return matrix;
      }
      Matrix<float> shift(1, config().hidden_size);
      for (int64_t j = 0; j < shift.cols(); ++j) shift(0, j) = 0.2f * static_cast<float>(j % 5 - 1);
      return shift;
    }
    std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

   private:
    static bool is_shift(const std::string& name) { return name.ends_with("norm.bias"); }
    float final_gain_;
    test::FakeWeights base_{test::tiny_config()};
  };
  const auto base = std::make_shared<Shifted>(0.5f);
  expect_same_logits(base, Rotation::block_diagonal(48, 16, 4));
  const PreparedSource prepared(base, Rotation::full(48, 1), pool_);
  EXPECT_TRUE(prepared.has("model.layers.0.mlp.up_proj.bias"));
  EXPECT_FALSE(prepared.has("model.layers.0.mlp.down_proj.bias"));
  EXPECT_FALSE(prepared.has("lm_head.bias"));
  // No rotated channel could hold the shift of one that the gain removes.
  const PreparedSource removed(std::make_shared<Shifted>(0.0f), Rotation::full(48, 1), pool_);
  D2Q_EXPECT_ERROR(removed.load("model.norm.bias"), ErrorCode::kUnsupported, "channel 3");
}

}  // namespace
}  // namespace d2q
