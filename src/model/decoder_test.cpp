#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/fake_weights.h"
#include "model/random_weights.h"
#include "model/transformer.h"

namespace d2q {
namespace {

class DecoderTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);

  static const float* row(const Tensor& logits, int64_t i) {
    return logits.data<float>() + i * logits.cols();
  }
  static double difference(const float* a, const float* b, int64_t n) {
    double largest = 0.0, scale = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      largest = std::max(largest, static_cast<double>(std::fabs(a[i] - b[i])));
      scale = std::max(scale, static_cast<double>(std::fabs(b[i])));
    }
    return largest / scale;
  }
};

TEST_F(DecoderTest, sequences_at_different_positions_get_the_transformers_logits) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const ModelConfig config = test::small_config(family);
    Transformer transformer(*device_, std::make_shared<test::FakeWeights>(config), DType::kF32);
    KvCache first(*device_, config, 20), second(*device_, config, 20);
    const auto decoder = transformer.make_decoder(make_decoder_cache(*device_, config, 2, 20));
    // The first sequence is four tokens ahead of the second one's start.
    for (int32_t i = 0; i < 9; ++i) {
      const int32_t a = (7 * i + 3) % 90, b = i < 4 ? 0 : (11 * i + 1) % 90;
      const int32_t position = std::max(0, i - 4);
      decoder->set(std::vector{a, b}, std::vector{i, position});
      decoder->step();
      const Tensor& logits = decoder->logits();
      const Tensor expected = transformer.decode(std::span(&a, 1), first);
      // Both sum at most 80 products in f32, in different orders.
      EXPECT_LE(difference(row(logits, 0), row(expected, 0), logits.cols()), 1e-5) << family;
      if (i < 4) continue;
      const Tensor other = transformer.decode(std::span(&b, 1), second);
      EXPECT_LE(difference(row(logits, 1), row(other, 0), logits.cols()), 1e-5) << family;
    }
  }
}

TEST_F(DecoderTest, goes_on_with_the_most_likely_tokens) {
  const ModelConfig config = test::small_config();
  Transformer transformer(*device_, std::make_shared<test::FakeWeights>(config), DType::kF32);
  const auto free = transformer.make_decoder(make_decoder_cache(*device_, config, 2, 12));
  const auto told = transformer.make_decoder(make_decoder_cache(*device_, config, 2, 12));
  std::vector<int32_t> tokens = {5, 60}, positions = {0, 0};
  free->set(tokens, positions);
  for (int step = 0; step < 8; ++step) {
    told->set(tokens, positions);
    free->step();
    told->step();
    for (int64_t b = 0; b < 2; ++b) {
      const float* logits = row(told->logits(), b);
      tokens[static_cast<size_t>(b)] =
          static_cast<int32_t>(std::max_element(logits, logits + 90) - logits);
      ++positions[static_cast<size_t>(b)];
    }
    EXPECT_EQ(free->tokens(), tokens);
    EXPECT_EQ(told->tokens(), tokens);
  }
}

TEST_F(DecoderTest, stages_one_after_another_are_a_step) {
  ModelConfig config = config_of_shape("smollm2-135m");
  config.n_layers = 1;
  config.vocab_size = 200;
  Transformer transformer(*device_, random_weights(config, {}), DType::kF32);
  const DecoderCache cache = make_decoder_cache(*device_, config, 1, 4);
  const auto decoder = transformer.make_decoder(cache);
  const std::vector<int32_t> token = {17}, position = {0};
  decoder->set(token, position);
  decoder->step();
  const std::vector<int32_t> chosen = decoder->tokens();
  std::vector<float> expected(200);
  device_->download(decoder->logits(), expected.data());
  EXPECT_TRUE(std::ranges::all_of(expected, [](float v) { return std::isfinite(v); }));
  device_->fill_zero(decoder->logits());
  decoder->set(token, position);
  for (const DecodeStage stage : kDecodeStages) decoder->stage(stage)->run();
  EXPECT_EQ(decoder->tokens(), chosen);
  EXPECT_EQ(difference(row(decoder->logits(), 0), expected.data(), 200), 0.0);
}

TEST_F(DecoderTest, needs_angles_that_do_not_depend_on_the_length) {
  ModelConfig config = test::small_config();
  EXPECT_TRUE(Decoder::supports(config));
  config.rope_scaling.kind = RopeScaling::Kind::kDynamic;
  EXPECT_FALSE(Decoder::supports(config));
}

}  // namespace
}  // namespace d2q
