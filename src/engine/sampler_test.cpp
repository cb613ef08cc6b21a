#include "engine/sampler.h"

#include <gtest/gtest.h>

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
  EXPECT_FALSE(refused([](SamplingOptions&) {}));
}

}  // namespace
}  // namespace d2q
