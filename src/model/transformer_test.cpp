#include "model/transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/fake_weights.h"

namespace d2q {
namespace {

std::vector<int32_t> random_ids(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(rng.below(90)));
  return ids;
}

/// max|a - b| / max|b| of two equal-sized f32 tensors.
double relative_difference(const Tensor& a, const Tensor& b) {
  double difference = 0.0, largest = 0.0;
  for (int64_t i = 0; i < b.size(); ++i) {
    const double expected = b.data<float>()[i];
    difference =
        std::max(difference, std::fabs(static_cast<double>(a.data<float>()[i]) - expected));
    largest = std::max(largest, std::fabs(expected));
  }
  return difference / largest;
}

class TransformerTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);

  Transformer make(ModelConfig config, DType products = DType::kF32) {
    return {*device_, std::make_shared<test::FakeWeights>(std::move(config)), products};
  }
};

// The cache holds f16: 2^-11 relative on keys and values, which two small layers pass on about
// unchanged; 4e-3 is eight times that.
constexpr double kCacheTolerance = 4e-3;

TEST_F(TransformerTest, decoding_token_by_token_equals_one_pass_over_the_sequence) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    ModelConfig config = test::small_config(family);
    if (config.family == "mistral") config.sliding_window = 5;
    Transformer model = make(config);
    const auto ids = random_ids(20, 1);
    const Tensor expected = model.forward(ids, 20);
    KvCache cache(*device_, config, 20);
    for (int64_t t = 0; t < 20; ++t) {
      const Tensor logits = model.decode(std::span(ids).subspan(static_cast<size_t>(t), 1), cache);
      ASSERT_LE(relative_difference(logits, expected.row_range(t, 1)), kCacheTolerance)
          << family << " token " << t;
    }
    EXPECT_EQ(cache.length(), 20);
  }
}

TEST_F(TransformerTest, a_cache_in_8_bits_is_near_and_the_same_on_any_thread_count) {
  const ModelConfig config = test::small_config();
  const auto ids = random_ids(40, 1);
  std::vector<std::vector<float>> last;
  for (const int n_threads : {1, 2, 3}) {
    ThreadPool pool(n_threads);
    const auto device = make_cpu_device(pool);
    Transformer model(*device, std::make_shared<test::FakeWeights>(config), DType::kF32);
    const Tensor expected = model.forward(ids, 40);
    KvCache cache(*device, config, 40, CacheType::kInt8);
    model.decode(std::span(ids).first(30), cache);
    Tensor logits;
    for (size_t t = 30; t < 40; ++t) {
      logits = model.decode(std::span(ids).subspan(t, 1), cache);
      // A key or value is off by at most 1/254 of its head's largest, about 6e-3 of its norm; the
      // bound is eight times that, as for f16.
      ASSERT_LE(relative_difference(logits, expected.row_range(static_cast<int64_t>(t), 1)), 5e-2);
    }
    last.emplace_back(logits.data<float>(), logits.data<float>() + logits.size());
    // Not as near as f16: it is another cache.
    EXPECT_GT(relative_difference(logits, expected.row_range(39, 1)), 1e-4);
  }
  EXPECT_EQ(last[0], last[1]);
  EXPECT_EQ(last[0], last[2]);
}

TEST_F(TransformerTest, a_prompt_in_chunks_equals_the_prompt_at_once) {
  const ModelConfig config = test::small_config();
  Transformer model = make(config);
  const auto ids = random_ids(1500, 2);  // longer than one prefill step
  const Tensor expected = model.forward(ids, 1500).row_range(1499, 1);
  KvCache once(*device_, config, 1500), chunked(*device_, config, 1500);
  EXPECT_LE(relative_difference(model.decode(ids, once), expected), kCacheTolerance);
  model.decode(std::span(ids).first(7), chunked);
  model.decode(std::span(ids).subspan(7, 600), chunked);
  EXPECT_LE(relative_difference(model.decode(std::span(ids).subspan(607), chunked), expected),
            kCacheTolerance);
}

TEST_F(TransformerTest, a_truncated_cache_continues_as_if_the_rest_had_never_been) {
  const ModelConfig config = test::small_config();
  Transformer model = make(config);
  const auto ids = random_ids(12, 3);
  KvCache cache(*device_, config, 16), fresh(*device_, config, 16);
  model.decode(ids, cache);
  cache.truncate(8);
  const Tensor again = model.decode(std::span(ids).subspan(8), cache);
  model.decode(std::span(ids).first(8), fresh);
  const Tensor expected = model.decode(std::span(ids).subspan(8), fresh);
  EXPECT_EQ(relative_difference(again, expected), 0.0);
}

TEST_F(TransformerTest, streamed_blocks_give_the_same_bits) {
  const ModelConfig config = test::small_config();
  Transformer loaded = make(config);
  Transformer streamed(*device_, std::make_shared<test::FakeWeights>(config), DType::kF32,
                       BlockResidency::kStreamed);
  const auto ids = random_ids(24, 6);
  EXPECT_EQ(relative_difference(streamed.forward(ids, 12), loaded.forward(ids, 12)), 0.0);
}

TEST_F(TransformerTest, continuing_shared_prefixes_equals_the_whole_sequences) {
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    ModelConfig config = test::small_config(family);
    if (config.family == "mistral") config.sliding_window = 5;
    Transformer model = make(config);
    const auto prefixes = random_ids(2 * 7, 4);
    const std::vector<int32_t> parents = {1, 0, 1};
    const auto suffixes = random_ids(3 * 4, 5);
    const PrefixStates states = model.run_prefixes(prefixes, 7);
    const Tensor found = model.forward_hidden(suffixes, 4, states, parents);
    for (int64_t i = 0; i < 3; ++i) {
      const auto prefix = prefixes.begin() + 7 * parents[static_cast<size_t>(i)];
      std::vector<int32_t> whole(prefix, prefix + 7);
      whole.insert(whole.end(), suffixes.begin() + 4 * i, suffixes.begin() + 4 * i + 4);
      const Tensor expected = model.forward_hidden(whole, 11).row_range(7, 4);
      // f32 throughout: only the order of sums differs, over widths of at most a few hundred.
      EXPECT_LE(relative_difference(found.row_range(4 * i, 4), expected), 1e-5) << family << i;
    }
  }
}

TEST_F(TransformerTest, sequences_of_a_batch_do_not_see_each_other) {
  Transformer model = make(test::small_config());
  const auto ids = random_ids(3 * 10, 4);
  const Tensor together = model.forward(ids, 10);
  for (int64_t sequence = 0; sequence < 3; ++sequence) {
    const Tensor alone =
        model.forward(std::span(ids).subspan(static_cast<size_t>(sequence * 10), 10), 10);
    EXPECT_LE(relative_difference(together.row_range(sequence * 10, 10), alone), 1e-5);
  }
}

TEST_F(TransformerTest, later_tokens_do_not_change_earlier_logits) {
  Transformer model = make(test::small_config());
  auto ids = random_ids(30, 5);
  const Tensor before = model.forward(ids, 30);
  ids[20] = (ids[20] + 1) % 90;
  const Tensor after = model.forward(ids, 30);
  EXPECT_EQ(relative_difference(after.row_range(0, 20), before.row_range(0, 20)), 0.0);
  EXPECT_GT(relative_difference(after.row_range(20, 10), before.row_range(20, 10)), 1e-3);
}

TEST_F(TransformerTest, bf16_products_stay_near_f32_ones) {
  const auto ids = random_ids(40, 6);
  Transformer exact = make(test::small_config()), narrow = make(test::small_config(), DType::kBF16);
  const double difference = relative_difference(narrow.forward(ids, 40), exact.forward(ids, 40));
  // About 20 roundings of 2^-9 in random directions on the way through two layers.
  EXPECT_LE(difference, 20.0 / 512.0);
  EXPECT_GT(difference, 0.0);
}

TEST_F(TransformerTest, does_not_depend_on_the_number_of_threads) {
  const auto ids = random_ids(64, 7);
  for (const DType products : {DType::kF32, DType::kBF16}) {
    std::vector<Tensor> logits;
    for (const int n_threads : {1, 3}) {
      ThreadPool pool(n_threads);
      const auto device = make_cpu_device(pool);
      Transformer model(*device, std::make_shared<test::FakeWeights>(test::small_config()),
                        products);
      logits.push_back(model.forward(ids, 32));
    }
    EXPECT_EQ(relative_difference(logits[0], logits[1]), 0.0);
  }
}

TEST_F(TransformerTest, refuses_foreign_tokens_and_a_full_cache) {
  const ModelConfig config = test::small_config();
  Transformer model = make(config);
  EXPECT_THROW(model.forward(std::vector<int32_t>{1, 90}, 2), Error);
  EXPECT_THROW(model.forward(std::vector<int32_t>{-1}, 1), Error);
  KvCache cache(*device_, config, 4);
  model.decode(std::vector<int32_t>{1, 2, 3}, cache);
  EXPECT_THROW(model.decode(std::vector<int32_t>{1, 2}, cache), Error);
  EXPECT_EQ(cache.length(), 3);
}

TEST_F(TransformerTest, tied_embeddings_serve_as_the_head) {
  ModelConfig config = test::small_config();
  config.tied_embeddings = true;
  Transformer model = make(config);
  const auto ids = random_ids(3, 8);
  const Tensor hidden = model.forward_hidden(ids, 3), logits = model.forward(ids, 3);
  const Matrix<float> table = test::FakeWeights(config).load("model.embed_tokens.weight");
  for (int64_t id = 0; id < 90; id += 13) {
    double expected = 0.0;
    for (int64_t i = 0; i < 48; ++i)
      expected += static_cast<double>(hidden.data<float>()[48 + i]) * table(id, i);
    EXPECT_NEAR(logits.data<float>()[90 + id], expected, 1e-5);
  }
}

}  // namespace
}  // namespace d2q
