#include "text/bpe_model.h"

#include <chrono>

#include "base/rng.h"
#include "base/testing/expect_error.h"

namespace d2q {
namespace {

/// Letters a..d, and random merges over them and over each other's results.
struct RandomModel {
  std::vector<std::string> tokens = {"a", "b", "c", "d"};
  std::vector<MergeRule> merges;

  explicit RandomModel(uint64_t seed) {
    Rng rng(seed);
    while (merges.size() < 60) {
      const std::string left = tokens[rng.below(tokens.size())];
      const std::string right = tokens[rng.below(tokens.size())];
      if (left.size() + right.size() > 12) continue;
      merges.emplace_back(left, right);
      if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) {
        tokens.push_back(left + right);
      }
    }
  }
  Vocabulary vocabulary() const {
    std::vector<Vocabulary::Entry> entries;
    for (size_t i = 0; i < tokens.size(); ++i) {
      entries.push_back({tokens[i], static_cast<int32_t>(i)});
    }
    return Vocabulary(std::move(entries), "test");
  }
};

/// The definition: look for the best pair in the whole word, merge it, start again.
std::vector<std::string> slow_merge(const RandomModel& model, const std::string& word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best_rank = model.merges.size();
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      // A pair that is listed twice has its later rank.
      const auto last =
          std::find(model.merges.rbegin(), model.merges.rend(), MergeRule{parts[i], parts[i + 1]});
      if (last == model.merges.rend()) continue;
      const auto rank = static_cast<size_t>(model.merges.rend() - last) - 1;
      if (rank < best_rank) {
        best_rank = rank;
        best_at = i;
      }
    }
    if (best_rank == model.merges.size()) return parts;
    parts[best_at] += parts[best_at + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeModel, MergesAsTheDefinitionSaysForShortAndLongWords) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const RandomModel random(seed);
    const Vocabulary vocabulary = random.vocabulary();
    const BpeModel model(vocabulary, random.merges, {}, "test");
    Rng rng(seed + 1000);
    for (const size_t length : {1u, 2u, 3u, 7u, 47u, 48u, 49u, 50u, 120u, 400u}) {
      std::string word;
      const uint64_t letters = 1 + rng.below(4);
      for (size_t i = 0; i < length; ++i) word += static_cast<char>('a' + rng.below(letters));
      std::vector<int32_t> ids;
      model.encode(word, ids);
      std::vector<std::string> found;
      for (const int32_t id : ids) found.push_back(*vocabulary.token(id));
      ASSERT_EQ(found, slow_merge(random, word)) << "seed " << seed << " word " << word;
    }
  }
}

TEST(BpeModel, AWordOfAMegabyteTakesSecondsAtMost) {
  const RandomModel random(3);
  const Vocabulary vocabulary = random.vocabulary();
  const BpeModel model(vocabulary, random.merges, {}, "test");
  std::string word;
  Rng rng(9);
  for (int i = 0; i < 1'000'000; ++i) word += static_cast<char>('a' + rng.below(4));
  std::vector<int32_t> ids;
  const auto start = std::chrono::steady_clock::now();
  model.encode(word, ids);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  // A quadratic loop does 10^12 steps; under sanitizers this takes about two seconds.
  EXPECT_LT(seconds.count(), 30.0);
  std::string joined;
  for (const int32_t id : ids) joined += *vocabulary.token(id);
  EXPECT_EQ(joined, word);
}

TEST(BpeModel, IgnoreMergesTakesAWordThatIsAToken) {
  const Vocabulary vocabulary({{"a", 0}, {"b", 1}, {"ab", 2}, {"aba", 3}}, "test");
  std::vector<int32_t> ids;
  BpeModel(vocabulary, {{"a", "b"}}, {}, "test").encode("aba", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 0}));
  ids.clear();
  BpeModel(vocabulary, {{"a", "b"}}, {.ignore_merges = true}, "test").encode("aba", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{3}));
}

TEST(BpeModel, AMergeOfUnknownTokensIsCorrupt) {
  const Vocabulary vocabulary({{"a", 0}, {"b", 1}}, "test");
  D2Q_EXPECT_ERROR(BpeModel(vocabulary, {{"a", "c"}}, {}, "test"), ErrorCode::kCorrupt,
                   "needs the token 'c'");
  D2Q_EXPECT_ERROR(BpeModel(vocabulary, {{"a", "b"}}, {}, "test"), ErrorCode::kCorrupt,
                   "needs the token 'ab'");
}

TEST(BpeModel, AnUnknownTokenThatIsMissingIsAnErrorOnlyWhenItIsNeeded) {
  const Vocabulary vocabulary({{"a", 0}}, "test");
  const BpeModel model(vocabulary, {}, {.unk_token = "<unk>"}, "test");
  std::vector<int32_t> ids;
  model.encode("aa", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 0}));
  D2Q_EXPECT_ERROR(model.encode("ab", ids), ErrorCode::kCorrupt, "<unk>");
}

TEST(Vocabulary, RefusesIdsThatClashOrAreOutOfRange) {
  const auto make = [](std::vector<Vocabulary::Entry> entries) {
    return Vocabulary(std::move(entries), "test").size();
  };
  EXPECT_EQ(make({{"a", 5}}), 6);
  EXPECT_EQ(make({}), 0);
  D2Q_EXPECT_ERROR(make({{"a", 1}, {"b", 1}}), ErrorCode::kCorrupt, "both 'a' and 'b'");
  D2Q_EXPECT_ERROR(make({{"a", -1}}), ErrorCode::kCorrupt, "outside");
  D2Q_EXPECT_ERROR(make({{"a", 1 << 20}}), ErrorCode::kCorrupt, "outside");
  D2Q_EXPECT_ERROR(make({{"\xFF", 0}}), ErrorCode::kCorrupt, "UTF-8");
}

}  // namespace
}  // namespace d2q
