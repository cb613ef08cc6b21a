#include "model/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace d2q {
namespace {

TEST(RandomWeights, shapes_are_whole_models) {
  for (const std::string& name : shape_names()) {
    const ModelConfig config = config_of_shape(name);
    EXPECT_EQ(config.n_heads % config.n_kv_heads, 0) << name;
    EXPECT_GT(config.vocab_size, 0) << name;
  }
  try {
    config_of_shape("llama9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("llama3-8b"), std::string::npos) << error.what();
  }
}

TEST(RandomWeights, packed_matrices_have_their_layouts_and_weights_near_zero) {
  ModelConfig config = config_of_shape("smollm2-135m");
  config.n_layers = 2;
  config.vocab_size = 300;
  for (const PackedKind kind : {PackedKind::kSignPlanes, PackedKind::kUniform}) {
    const auto source = random_weights(config, {kind, 3, 64, 8});
    std::set<const uint8_t*> places;
    for (const auto& [name, rows, cols] :
         {std::tuple<const char*, int64_t, int64_t>{"model.layers.0.self_attn.k_proj", 192, 576},
          {"model.layers.1.self_attn.k_proj", 192, 576},
          {"model.layers.1.mlp.down_proj", 576, 1536}}) {
      const auto packed = source->packed(std::string(name) + ".weight");
      ASSERT_TRUE(packed) << name;
      EXPECT_EQ(packed->layout, (PackedLayout{kind, 3, rows, cols, 64}));
      EXPECT_TRUE(places.insert(packed->codes.data()).second) << name;
      std::vector<float> weights(static_cast<size_t>(rows * cols));
      dequantize(*packed, weights);
      double sum = 0.0, squares = 0.0;
      for (const float w : weights) sum += w, squares += static_cast<double>(w) * w;
      const auto n = static_cast<double>(weights.size());
      EXPECT_LT(std::fabs(sum / n), 1e-3) << name;
      EXPECT_NEAR(std::sqrt(squares / n), 0.022, 0.006) << name;
    }
    // Tied: the head's codes stand beside the embedding's own values.
    EXPECT_EQ(source->packed("model.embed_tokens.weight")->layout.bits, 8);
    EXPECT_EQ(source->load("model.embed_tokens.weight").rows(), 300);
    EXPECT_EQ(source->load("model.norm.weight").span()[5], 1.0f);
    EXPECT_FALSE(source->has("lm_head.weight"));
    EXPECT_THROW(source->load("model.layers.0.mlp.up_proj.weight"), Error);
  }
  EXPECT_FALSE(random_weights(config, {.head_bits = 16})->packed("model.embed_tokens.weight"));
  EXPECT_THROW(random_weights(config, {.bits = 5}), Error);
}

}  // namespace
}  // namespace d2q
