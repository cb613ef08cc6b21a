#include "engine/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/testing/scripted_model.h"

namespace d2q {
namespace {

using testing::ByteTokenizer;
using testing::ScriptedSequence;

GenerateOptions greedy(int64_t max_tokens) {
  GenerateOptions options;
  options.sampling.temperature = 0.0;
  options.max_tokens = max_tokens;
  return options;
}

GenerateResult continue_text(ScriptedSequence& sequence, const std::string& prompt,
                             const GenerateOptions& options, const TextSink& sink = nullptr) {
  const ByteTokenizer tokenizer;
  return generate(sequence, tokenizer, tokenizer.encode(prompt, false), options, sink);
}

TEST(Generate, ContinuesThePromptUpToTheLimit) {
  ScriptedSequence sequence("Hello, world", 100);
  std::string streamed;
  const auto result = continue_text(sequence, "Hello", greedy(4), [&](std::string_view piece) {
    streamed += piece;
    return true;
  });
  EXPECT_EQ(result.text, ", wo");
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.tokens.size(), 4u);
  EXPECT_EQ(result.prompt_tokens, 5);
  EXPECT_EQ(result.reason, StopReason::kLength);
}

TEST(Generate, EndsAtAStopTokenWithoutShowingIt) {
  ScriptedSequence sequence("ab cd", 100);
  GenerateOptions options = greedy(50);
  options.stop_tokens = {' '};
  const auto result = continue_text(sequence, "a", options);
  EXPECT_EQ(result.text, "b");
  EXPECT_EQ(result.reason, StopReason::kStopToken);
}

TEST(Generate, EndsAtAStopTextWithoutShowingIt) {
  ScriptedSequence sequence("ab. END rest", 100);
  GenerateOptions options = greedy(50);
  options.stop_texts = {" END"};
  const auto result = continue_text(sequence, "a", options);
  EXPECT_EQ(result.text, "b.");
  EXPECT_EQ(result.reason, StopReason::kStopText);
}

TEST(Generate, EndsWhenTheContextIsFull) {
  ScriptedSequence sequence("abcdefgh", 4);
  const auto result = continue_text(sequence, "ab", greedy(50));
  // Two tokens fit after the prompt; the one sampled after the last needs no room.
  EXPECT_EQ(result.text, "cde");
  EXPECT_EQ(result.reason, StopReason::kContextFull);
}

TEST(Generate, EndsWhenTheSinkRefuses) {
  ScriptedSequence sequence("abcdefgh", 100);
  const auto result =
      continue_text(sequence, "a", greedy(50), [](std::string_view piece) { return piece != "c"; });
  EXPECT_EQ(result.text, "bc");
  EXPECT_EQ(result.reason, StopReason::kCallback);
}

TEST(Generate, NeverSplitsACharacterBetweenPieces) {
  ScriptedSequence sequence("a\xc3\xa9\xe2\x82\xac", 100);
  std::vector<std::string> pieces;
  const auto result = continue_text(sequence, "a", greedy(5), [&](std::string_view piece) {
    pieces.emplace_back(piece);
    return true;
  });
  EXPECT_EQ(pieces, (std::vector<std::string>{"\xc3\xa9", "\xe2\x82\xac"}));
  EXPECT_EQ(result.text, "\xc3\xa9\xe2\x82\xac");
}

TEST(Generate, ReadsOnlyWhatIsNewOfALongerPrompt) {
  ScriptedSequence sequence("abcdefghij", 100);
  continue_text(sequence, "abcd", greedy(1));
  const int64_t before = sequence.appended;
  const auto result = continue_text(sequence, "abcdef", greedy(1));
  EXPECT_EQ(result.reused_tokens, 4);
  EXPECT_EQ(sequence.appended - before, 2);
  EXPECT_EQ(result.text, "g");
}

TEST(Generate, FeedsTheLastTokenAgainWhenThePromptIsHeldWhole) {
  ScriptedSequence sequence("abcdefghij", 100);
  continue_text(sequence, "abcd", greedy(3));
  const auto result = continue_text(sequence, "abc", greedy(1));
  EXPECT_EQ(result.reused_tokens, 2);
  EXPECT_EQ(result.text, "d");
}

TEST(Generate, StopsWhenAskedToBetweenTokensAndPiecesOfThePrompt) {
  ScriptedSequence sequence(std::string(3000, 'a'), 3000);
  int asked = 0;
  GenerateOptions options = greedy(50);
  options.should_stop = [&] { return ++asked == 2; };
  auto result = continue_text(sequence, std::string(2000, 'a'), options);
  EXPECT_EQ(result.reason, StopReason::kCallback);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(sequence.tokens().size(), 1024u);
  asked = -1;
  result = continue_text(sequence, "aa", options);
  EXPECT_EQ(result.reason, StopReason::kCallback);
  EXPECT_EQ(result.text, "aa");
}

TEST(Generate, GivesTheLogProbabilitiesOfEachToken) {
  ScriptedSequence sequence("abcdefgh", 100);
  GenerateOptions options = greedy(2);
  options.n_log_probabilities = 3;
  const auto result = continue_text(sequence, "a", options);
  ASSERT_EQ(result.log_probabilities.size(), 2u);
  // One logit of 10 among 255 of 0.
  const double expected = 10.0 - std::log(std::exp(10.0) + 255.0);
  EXPECT_NEAR(result.log_probabilities[0].chosen, expected, 1e-6);
  ASSERT_EQ(result.log_probabilities[1].best.size(), 3u);
  EXPECT_EQ(result.log_probabilities[1].best[0].id, 'c');
  EXPECT_NEAR(result.log_probabilities[1].best[1].log_probability, expected - 10.0, 1e-6);
}

TEST(Generate, RefusesAnEmptyPromptAndOneThatFillsTheContext) {
  ScriptedSequence sequence("abcdefgh", 4);
  for (const char* prompt : {"", "abcd", "abcde"}) {
    try {
      continue_text(sequence, prompt, greedy(1));
      FAIL() << prompt;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace d2q
