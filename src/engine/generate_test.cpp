#include "engine/generate.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

constexpr int32_t kVocabulary = 256;

/// One token a byte.
class ByteTokenizer final : public Tokenizer {
 public:
  int32_t vocab_size() const override { return kVocabulary; }
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string token_bytes(int32_t id, bool) const override { return {static_cast<char>(id)}; }
  std::string decode(std::span<const int32_t> ids, bool special) const override {
    std::string text;
    for (const int32_t id : ids) text += token_bytes(id, special);
    return text;
  }
  std::optional<int32_t> find_token(std::string_view) const override { return std::nullopt; }
};

/// Says the next byte of a script, counted from the position in the sequence.
class ScriptedSequence final : public Sequence {
 public:
  ScriptedSequence(std::string script, int64_t capacity)
      : script_(std::move(script)), capacity_(capacity) {}
  int64_t capacity() const override { return capacity_; }
  std::span<const int32_t> tokens() const override { return tokens_; }
  void truncate(int64_t length) override { tokens_.resize(static_cast<size_t>(length)); }
  std::span<const float> append(std::span<const int32_t> ids) override {
    appended += static_cast<int64_t>(ids.size());
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    logits_.assign(kVocabulary, 0.0f);
    logits_[static_cast<unsigned char>(script_.at(tokens_.size()))] = 10.0f;
    return logits_;
  }
  int64_t appended = 0;

 private:
  std::string script_;
  int64_t capacity_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
};

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
