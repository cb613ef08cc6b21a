#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

SamplingOptions neutral() {
  SamplingOptions options;
  options.temperature = 1.0;
  options.top_p = 1.0;
  return options;
}

std::map<int32_t, int> draw(const SamplingOptions& options, const std::vector<float>& logits,
                            int n) {
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i) ++counts[sampler.sample(logits, {})];
  return counts;
}

TEST(Sampler, GreedyTakesTheBestAndTheLowerIdOnATie) {
  SamplingOptions options;
  options.temperature = 0.0;
  Sampler sampler(options);
  EXPECT_EQ(sampler.sample(std::vector<float>{0.5f, 2.0f, -1.0f, 2.0f}, {}), 1);
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  constexpr int kDraws = 20000;
  auto counts = draw(neutral(), logits, kDraws);
  // Five standard deviations of a binomial count: 5 sqrt(n p (1-p)) <= 5 sqrt(n/4).
  const double tolerance = 5.0 * std::sqrt(kDraws / 4.0);
  EXPECT_NEAR(counts[0], 0.5 * kDraws, tolerance);
  EXPECT_NEAR(counts[1], 0.3 * kDraws, tolerance);
  EXPECT_NEAR(counts[2], 0.2 * kDraws, tolerance);
}

TEST(Sampler, TheSameSeedGivesTheSameTokens) {
  const std::vector<float> logits(100, 0.0f);
  SamplingOptions options = neutral();
  options.seed = 7;
  Sampler a(options);
  Sampler b(options);
  options.seed = 8;
  Sampler c(options);
  int different = 0;
  for (int i = 0; i < 50; ++i) {
    const int32_t token = a.sample(logits, {});
    EXPECT_EQ(token, b.sample(logits, {}));
    different += token != c.sample(logits, {});
  }
  EXPECT_GT(different, 25);
}

TEST(Sampler, TopKKeepsTheKMostLikely) {
  SamplingOptions options = neutral();
  options.top_k = 2;
  const auto counts = draw(options, {0.0f, 1.0f, 0.9f, 0.8f}, 500);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, TopPKeepsTheFewestThatReachP) {
  SamplingOptions options = neutral();
  options.top_p = 0.6;
  const auto counts = draw(options, {std::log(0.2f), std::log(0.5f), std::log(0.3f)}, 500);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, MinPDropsWhatIsFarBelowTheBest) {
  SamplingOptions options = neutral();
  options.min_p = 0.5;
  const auto counts = draw(options, {std::log(0.5f), std::log(0.3f), std::log(0.2f)}, 500);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_FALSE(counts.contains(2));
}

TEST(Sampler, RepetitionPenaltyReachesOnlyTheWindow) {
  SamplingOptions options;
  options.temperature = 0.0;
  options.repetition_penalty = 2.0;
  options.repetition_window = 1;
  Sampler sampler(options);
  const std::vector<float> logits = {1.0f, 1.5f, -1.0f};
  EXPECT_EQ(sampler.sample(logits, std::vector<int32_t>{0, 1}), 0);
  EXPECT_EQ(sampler.sample(logits, std::vector<int32_t>{1, 0}), 1);
  // A negative logit is multiplied: the seen token falls behind an equal one that was not seen.
  EXPECT_EQ(sampler.sample(std::vector<float>{-1.0f, -1.5f}, std::vector<int32_t>{0}), 1);
}

TEST(Sampler, FrequencyAndPresenceArePenalised) {
  SamplingOptions options;
  options.temperature = 0.0;
  options.frequency_penalty = 1.0;
  Sampler frequency(options);
  const std::vector<float> logits = {3.0f, 2.5f, 1.8f};
  EXPECT_EQ(frequency.sample(logits, std::vector<int32_t>{0}), 1);
  EXPECT_EQ(frequency.sample(logits, std::vector<int32_t>{0, 0, 1}), 2);
  options.frequency_penalty = 0.0;
  options.presence_penalty = 1.0;
  Sampler presence(options);
  EXPECT_EQ(presence.sample(logits, std::vector<int32_t>{0, 0, 1}), 0);
  EXPECT_EQ(presence.sample(logits, std::vector<int32_t>{0, 0}), 1);
}

TEST(Sampler, ABiasRaisesATokenOrForbidsIt) {
  SamplingOptions options = neutral();
  options.logit_bias = {{0, -std::numeric_limits<double>::infinity()}, {2, 100.0}};
  EXPECT_EQ(draw(options, {1.0f, 1.0f, 1.0f}, 200), (std::map<int32_t, int>{{2, 200}}));
  options.logit_bias = {{3, 1.0}};
  Sampler sampler(options);
  EXPECT_THROW(sampler.sample(std::vector<float>{0.0f, 0.0f, 0.0f}, {}), Error);
}

/// What the sampler keeps, by definition: sort all, cut by k, then by p, then by min-p.
std::vector<int32_t> kept_by_definition(const SamplingOptions& options,
                                        const std::vector<float>& logits) {
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < ids.size()) {
    ids.resize(static_cast<size_t>(options.top_k));
  }
  const auto probability = [&](int32_t id) {
    return std::exp(static_cast<double>(logit(id) - logit(ids[0])) / options.temperature);
  };
  double sum = 0.0;
  for (const int32_t id : ids) sum += probability(id);
  size_t n = 0;
  for (double reached = 0.0; n < ids.size() && (n == 0 || reached < options.top_p * sum); ++n) {
    reached += probability(ids[n]);
  }
  ids.resize(n);
  std::erase_if(ids, [&](int32_t id) { return probability(id) < options.min_p; });
  std::sort(ids.begin(), ids.end());
  return ids;
}

TEST(Sampler, DrawsExactlyWhatTheDefinitionKeeps) {
  Rng rng(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<float> logits(1 + rng.below(700));
    for (float& logit : logits) logit = static_cast<float>(rng.below(40)) * 0.25f;  // many ties
    SamplingOptions options = neutral();
    options.seed = static_cast<uint64_t>(round);
    options.top_k = static_cast<int64_t>(rng.below(3) * rng.below(50));
    options.top_p = rng.below(2) == 0 ? 1.0 : 0.3 + 0.6 * rng.uniform();
    options.min_p = rng.below(2) == 0 ? 0.0 : 0.3;
    const auto kept = kept_by_definition(options, logits);
    for (const auto& [id, count] : draw(options, logits, 200)) {
      EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), id)) << "round " << round;
    }
  }
}

TEST(LogProbabilities, AreALogSoftmax) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.2f), std::log(0.3f)};
  const LogProbabilities result = log_probabilities(logits, 1, 2);
  EXPECT_NEAR(result.chosen, std::log(0.2), 1e-6);
  ASSERT_EQ(result.best.size(), 2u);
  EXPECT_EQ(result.best[0].id, 0);
  EXPECT_EQ(result.best[1].id, 2);
  EXPECT_NEAR(result.best[1].log_probability, std::log(0.3), 1e-6);
}

TEST(Sampler, NamesTheTokenWhoseLogitIsNaN) {
  Sampler sampler(neutral());
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  try {
    sampler.sample(std::vector<float>{0.0f, nan}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
    EXPECT_NE(std::string(error.what()).find("token 1"), std::string::npos);
  }
  EXPECT_THROW(sampler.sample(std::vector<float>{-infinity, -infinity}, {}), Error);
  EXPECT_EQ(sampler.sample(std::vector<float>{-infinity, 0.0f}, {}), 1);
}

TEST(Sampler, RefusesOptionsOutsideTheirRange) {
  const auto refused = [](auto change) {
    SamplingOptions options;
    change(options);
    try {
      validate(options);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kInvalidArgument;
    }
    return false;
  };
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.temperature = -0.1; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.temperature = std::nan(""); }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.top_k = -1; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.top_p = 0.0; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.top_p = 1.01; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.min_p = 2.0; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.repetition_penalty = 0.0; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.repetition_window = -1; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.frequency_penalty = 101.0; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.presence_penalty = std::nan(""); }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.logit_bias = {{-1, 0.0}}; }));
  EXPECT_TRUE(refused([](SamplingOptions& o) { o.logit_bias = {{1, std::nan("")}}; }));
  EXPECT_FALSE(refused([](SamplingOptions&) {}));
}

}  // namespace
}  // namespace d2q
