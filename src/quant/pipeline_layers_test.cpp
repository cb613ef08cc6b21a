// Whole runs whose linears are not all alike: kept, with bits of their own, packed embedding and
// head.
#include "quant/testing/pipeline_fixture.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using test::Expanded;
using test::PipelineTest;

TEST_F(PipelineTest, KeptLinearsStayInF16AndOverridesApply) {
  options_.rotation = RotationKind::kNone;
  options_.keep = {"layers\\.1\\.self_attn\\.q_proj"};
  options_.layers = {{"v_proj", 8, 48}};
  run("out", options_);
  const auto packed = open_model(out("out"));
  const std::string kept = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_FALSE(packed->packed(kept));
  const Matrix<float> stored = packed->load(kept);
  const Matrix<float> original = open_model(model_)->load(kept);
  for (int64_t i = 0; i < stored.size(); ++i)
    EXPECT_EQ(stored.data()[i], to_float(to_half(original.data()[i])));
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.v_proj.weight")->layout.bits, 8);
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.v_proj.weight")->layout.group_size, 48);
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.q_proj.weight")->layout.bits, 2);
}

TEST_F(PipelineTest, MixedBitsStayBelowTheirTargetAndComeNearerToTheModel) {
  options_.sign_planes = true;
  options_.bits = 3;  // 2 leave nothing of so small a model
  options_.group_size = 48;
  const double uniform = run("uniform", options_)["bits_per_weight"];
  options_.target_bits = uniform + 0.6;
  const nlohmann::json report = run("mixed", options_);
  EXPECT_LE(report["bits_per_weight"].get<double>(), options_.target_bits);
  EXPECT_GT(report["bits_per_weight"].get<double>(), uniform + 0.3);
  std::map<int, int> count;
  for (const nlohmann::json& block : report["blocks"]) {
    for (const nlohmann::json& linear : block["linears"]) {
      const std::string name = linear["name"];
      EXPECT_EQ(linear["bits"], report["settings"]["allocated_bits"][name]);
      ++count[linear["bits"]];
    }
  }
  EXPECT_GT(count[3], 0);
  EXPECT_GT(count[4], 0);
  EXPECT_LT(distance_from_model("mixed"), distance_from_model("uniform"));
  EXPECT_NEAR(plan_quantization(model_, options_).bits_per_weight, options_.target_bits, 0.01);
}

TEST_F(PipelineTest, EmbeddingAndHeadArePackedWhenAskedTo) {
  options_.bits = 8;
  options_.rotation = RotationKind::kBlock;
  run("whole", options_);
  for (const int bits : {4, 8}) {
    SCOPED_TRACE(bits);
    options_.embed_bits = bits;
    options_.head_bits = 12 - bits;
    const std::string name = std::to_string(bits);
    run(name, options_);
    const std::shared_ptr<const WeightSource> packed = open_model(out(name));
    const auto embedding = packed->packed("model.embed_tokens.weight");
    const auto head = packed->packed("lm_head.weight");
    ASSERT_TRUE(embedding && head);
    EXPECT_EQ(embedding->layout.bits, bits);
    EXPECT_EQ(head->layout.bits, 12 - bits);
    // Integers of 16 bits for activations; the embedding's rows are the same either way.
    EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
              5e-4);
    // 15 steps over about five deviations are off by a tenth of a weight, in one of the two
    // matrices; an error of the embedding may grow on its way through the blocks.
    EXPECT_LE(distance_from_model(name), distance_from_model("whole") + 0.4);
  }
}

TEST_F(PipelineTest, ATiedHeadHasTheBitsOfTheEmbedding) {
  ModelConfig config = test::tiny_config();
  config.tied_embeddings = true;
  model_ = folder_.path() / "tied";
  test::write_tiny_model(model_, config);
  options_.rotation = RotationKind::kNone;
  options_.embed_bits = 8;
  EXPECT_THROW(run("different", options_), Error);
  options_.head_bits = 8;
  run("same", options_);
  const std::shared_ptr<const WeightSource> packed = open_model(out("same"));
  EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
            5e-4);
}

TEST_F(PipelineTest, EveryLinearKeptIsTheModelInF16) {
  options_.keep = {"."};
  options_.deviation_correction = false;
  run("out", options_);
  // Weights to 2^-11, through 14 linears.
  EXPECT_LE(distance_from_model("out"), 0.01);
}

TEST_F(PipelineTest, ProductsInBf16GiveAModelAsGood) {
  options_.bits = 4;
  run("f32", options_);
  options_.products = DType::kBF16;
  run("bf16", options_);
  EXPECT_NE(files("bf16"), files("f32"));
  EXPECT_LE(distance_from_model("bf16"), 1.5 * distance_from_model("f32"));
}

TEST_F(PipelineTest, BiasesTiedHeadsAndHeadNormsAreCarriedOver) {
  for (const char* family : {"qwen2", "qwen3"}) {
    for (const RotationKind rotation : {RotationKind::kBlock, RotationKind::kNone}) {
      fs::remove_all(model_);
      ModelConfig config = test::tiny_config(family);
      config.tied_embeddings = true;
      test::write_tiny_model(model_, config);
      options_.bits = 8;
      options_.rotation = rotation;
      options_.overwrite = true;
      run("out", options_);
      EXPECT_EQ(open_model(out("out"))->config().tied_embeddings, rotation == RotationKind::kNone);
      EXPECT_LE(distance_from_model("out"), 0.1) << family;
    }
  }
}

}  // namespace
}  // namespace d2q
