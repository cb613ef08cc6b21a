#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/testing/expect_error.h"
#include "eval/divergence.h"
#include "eval/sanity_gate.h"
#include "eval/testing/byte_tokenizer.h"
#include "model/fake_weights.h"

namespace d2q {
namespace {

/// Two models of one vocabulary, the second with a little noise, and a text.
class Measuring : public ::testing::Test {
 protected:
  Measuring() {
    Rng rng(11);
    for (int i = 0; i < 230; ++i) text_ += static_cast<char>(rng.below(90));
    for (float& value : altered_->tensor("model.layers.0.mlp.down_proj.weight").span())
      value += 0.05f * static_cast<float>(rng.gaussian());
  }

  /// log softmax of every position of the first `n` tokens, in double.
  std::vector<std::vector<double>> log_probabilities(Transformer& model, std::vector<int32_t> ids) {
    const Tensor logits = model.forward(ids, static_cast<int64_t>(ids.size()));
    std::vector<std::vector<double>> rows;
    for (int64_t t = 0; t < logits.rows(); ++t) {
      std::vector<double> row(logits.data<float>() + t * 90, logits.data<float>() + (t + 1) * 90);
      double sum = 0.0;
      for (const double value : row) sum += std::exp(value);
      for (double& value : row) value -= std::log(sum);
      rows.push_back(std::move(row));
    }
    return rows;
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  std::shared_ptr<test::FakeWeights> weights_ =
      std::make_shared<test::FakeWeights>(test::small_config());
  std::shared_ptr<test::FakeWeights> altered_ =
      std::make_shared<test::FakeWeights>(test::small_config());
  test::ByteTokenizer tokenizer_{90};
  std::string text_;
};

TEST_F(Measuring, overlapping_windows_score_every_token_once) {
  Transformer model(*device_, weights_, DType::kF32);
  const auto ids = tokenizer_.encode(text_, false);
  const int64_t ctx = 32;
  for (const int64_t stride : {0, 32, 8, 7, 1}) {
    const auto result =
        perplexity(*device_, model, tokenizer_, text_, {.ctx = ctx, .stride = stride}, {});
    const int64_t step = stride == 0 ? ctx : stride;
    double sum = 0.0;
    int64_t tokens = 0;
    for (int64_t begin = 0; begin + ctx <= static_cast<int64_t>(ids.size()); begin += step) {
      const auto rows = log_probabilities(model, {ids.begin() + begin, ids.begin() + begin + ctx});
      const int64_t first = begin == 0 || step == ctx ? 1 : ctx - step;
      for (int64_t t = first; t < ctx; ++t) {
        sum -= rows[static_cast<size_t>(t - 1)]
                   [static_cast<size_t>(ids[static_cast<size_t>(begin + t)])];
        ++tokens;
      }
    }
    EXPECT_EQ(result.tokens, tokens) << stride;
    // f32 logits against f64 sums of them: a few 1e-7 a token.
    EXPECT_NEAR(result.nll, sum / static_cast<double>(tokens), 1e-5) << stride;
    EXPECT_TRUE(result.nll_standard_error);
  }
}

TEST_F(Measuring, wrong_windows_are_refused) {
  Transformer model(*device_, weights_, DType::kF32);
  const auto measure = [&](const WindowOptions& options) {
    perplexity(*device_, model, tokenizer_, text_, options, {});
  };
  D2Q_EXPECT_ERROR(measure({.ctx = 1}), ErrorCode::kInvalidArgument, "ctx");
  D2Q_EXPECT_ERROR(measure({.ctx = 8, .stride = 9}), ErrorCode::kInvalidArgument, "stride");
  D2Q_EXPECT_ERROR(measure({.ctx = 4096}), ErrorCode::kInvalidArgument, "230 tokens are fewer");
}

TEST_F(Measuring, divergence_equals_its_definition) {
  Transformer reference(*device_, weights_, DType::kF32);
  Transformer model(*device_, altered_, DType::kF32);
  const int64_t ctx = 46;
  const auto result =
      divergence(*device_, reference, tokenizer_, model, tokenizer_, text_, {.ctx = ctx}, {});
  const auto ids = tokenizer_.encode(text_, false);
  std::vector<double> divergences;
  double squares = 0.0;
  double same = 0.0;
  for (int64_t begin = 0; begin < 230; begin += ctx) {
    const std::vector<int32_t> window(ids.begin() + begin, ids.begin() + begin + ctx);
    const auto p = log_probabilities(reference, window);
    const auto q = log_probabilities(model, window);
    for (size_t t = 0; t + 1 < window.size(); ++t) {
      double sum = 0.0;
      for (size_t i = 0; i < 90; ++i) sum += std::exp(p[t][i]) * (p[t][i] - q[t][i]);
      divergences.push_back(sum);
      const auto next = static_cast<size_t>(window[t + 1]);
      squares += std::pow(std::exp(q[t][next]) - std::exp(p[t][next]), 2);
      same += std::ranges::max_element(p[t]) - p[t].begin() ==
                      std::ranges::max_element(q[t]) - q[t].begin()
                  ? 1.0
                  : 0.0;
    }
  }
  const auto n = static_cast<double>(divergences.size());
  std::sort(divergences.begin(), divergences.end());
  EXPECT_EQ(result.tokens, static_cast<int64_t>(divergences.size()));
  EXPECT_NEAR(result.kld.mean, std::accumulate(divergences.begin(), divergences.end(), 0.0) / n,
              1e-6);
  EXPECT_GT(result.kld.mean, 1e-5);
  EXPECT_NEAR(result.median, quantile(divergences, 0.5), 1e-6);
  EXPECT_NEAR(result.percentile_99_9, quantile(divergences, 0.999), 1e-6);
  EXPECT_NEAR(result.rms_probability, std::sqrt(squares / n), 1e-6);
  EXPECT_NEAR(result.top_agreement.mean, same / n, 1e-12);
}

TEST_F(Measuring, a_model_does_not_diverge_from_itself) {
  Transformer model(*device_, weights_, DType::kF32);
  const auto result =
      divergence(*device_, model, tokenizer_, model, tokenizer_, text_, {.ctx = 20}, {});
  EXPECT_NEAR(result.kld.mean, 0.0, 1e-12);
  EXPECT_EQ(result.top_agreement.mean, 1.0);
  EXPECT_EQ(result.perplexity, result.reference_perplexity);
}

TEST_F(Measuring, models_that_tokenize_differently_are_not_compared) {
  Transformer model(*device_, weights_, DType::kF32);
  const test::ByteTokenizer other(90, 1);
  D2Q_EXPECT_ERROR(divergence(*device_, model, other, model, tokenizer_, text_, {.ctx = 20}, {}),
                   ErrorCode::kInvalidArgument, "tokenizes the text differently");
}

TEST_F(Measuring, the_check_passes_a_little_noise_and_notices_a_collapse) {
  const auto ids = tokenizer_.encode(text_, false);
  const auto check = [&](std::shared_ptr<const WeightSource> result) {
    return check_sanity(*device_, weights_, std::move(result), ids, 23, DType::kF32, {});
  };
  const SanityResult fine = check(altered_);
  EXPECT_EQ(fine.collapse, "");
  EXPECT_EQ(fine.tokens, 10 * 22);
  EXPECT_NEAR(fine.ratio, 1.0, 0.2);

  auto loud = std::make_shared<test::FakeWeights>(test::small_config());
  for (float& value : loud->tensor("model.norm.weight").span()) value *= 20.0f;
  EXPECT_NE(check(loud).collapse.find("times the original's"), std::string::npos);

  auto infinite = std::make_shared<test::FakeWeights>(test::small_config());
  for (float& value : infinite->tensor("model.norm.weight").span()) value *= 1e38f;
  EXPECT_NE(check(infinite).collapse.find("perplexity is"), std::string::npos);
}

TEST_F(Measuring, the_same_word_everywhere_is_a_collapse) {
  const auto ids = tokenizer_.encode(text_, false);
  auto constant = std::make_shared<test::FakeWeights>(test::small_config());
  // Channel 0 of the stream is made large and positive for every token, and only row 7 reads it.
  auto& embedding = constant->tensor("model.embed_tokens.weight");
  for (int64_t token = 0; token < embedding.rows(); ++token) embedding(token, 0) = 30.0f;
  auto& head = constant->tensor("lm_head.weight");
  for (int64_t token = 0; token < head.rows(); ++token) head(token, 0) = token == 7 ? 0.5f : 0.0f;
  constant->tensor("model.norm.weight")(0, 0) = 1.0f;
  const SanityResult result = check_sanity(*device_, weights_, constant, ids, 23, DType::kF32, {});
  EXPECT_TRUE(result.constant_output);
  EXPECT_EQ(result.collapse, "it predicts the same token everywhere");
}

}  // namespace
}  // namespace d2q
