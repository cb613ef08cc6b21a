// The installed headers, used as a program that links the library uses them.
#include <d2quant/language_model.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace d2q::test {
namespace {

class LanguageModelTest : public testing::Test {
 protected:
  LanguageModelTest() { write_tiny_model(folder_.path() / "model"); }
  std::string path() const { return (folder_.path() / "model").string(); }

  static std::string what_fails(const std::function<void()>& call) {
    try {
      call();
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "nothing";
  }

  TemporaryFolder folder_;
};

TEST_F(LanguageModelTest, ContinuesATextTheSameOnAnyNumberOfThreads) {
  ContinuationOptions options;
  options.max_tokens = 16;
  std::string shown;
  LanguageModel one(path(), {.threads = 1});
  const std::string text = one.continue_text("the cat", options, [&](std::string_view piece) {
    shown += piece;
    return true;
  });
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(shown, text);
  LanguageModel two(path(), {.threads = 2});
  EXPECT_EQ(two.continue_text("the cat", options), text);
  LanguageModel moved = std::move(two);
  EXPECT_EQ(moved.continue_text("the cat", options), text);
}

TEST_F(LanguageModelTest, TheCallerMayStop) {
  LanguageModel model(path(), {.threads = 1});
  int calls = 0;
  model.continue_text("the cat", {}, [&](std::string_view) { return ++calls < 2; });
  EXPECT_EQ(calls, 2);
}

TEST_F(LanguageModelTest, AnyNumberOfTokensIsAnAnswerOrAnError) {
  LanguageModel model(path(), {.threads = 1});
  ContinuationOptions options;
  options.max_tokens = 0;
  EXPECT_EQ(model.continue_text("the cat", options), "");
  // The model's 512 positions end it.
  options.max_tokens = std::numeric_limits<int64_t>::max();
  EXPECT_LE(model.tokenize(model.continue_text("the cat", options), false).size(), 3u * 512);
  options.max_tokens = -1;
  EXPECT_EQ(what_fails([&] { model.continue_text("the cat", options); }),
            "max_tokens: -1 is negative");
  EXPECT_NE(what_fails([&] { model.continue_text(std::string(600, 'a')); }).find("no room"),
            std::string::npos);
  EXPECT_NE(what_fails([&] { model.continue_text(""); }).find("no tokens"), std::string::npos);
}

TEST_F(LanguageModelTest, MeasuresPerplexity) {
  LanguageModel model(path(), {.threads = 1});
  const std::string text = tiny_text(1000);
  EXPECT_EQ(model.tokenize(text, false).size(), text.size());  // one token a byte
  const double perplexity = model.perplexity(text, 128);
  EXPECT_GT(perplexity, 1.0);
  EXPECT_TRUE(std::isfinite(perplexity));
  EXPECT_NE(what_fails([&] { model.perplexity(text, 1); }).find("ctx"), std::string::npos);
  EXPECT_NE(what_fails([&] { model.perplexity("", 128); }), "nothing");
}

TEST_F(LanguageModelTest, WrongArgumentsAreRuntimeErrors) {
  EXPECT_NE(what_fails([&] { LanguageModel(path(), {.threads = -1}); }).find("threads"),
            std::string::npos);
  EXPECT_NE(what_fails([&] { LanguageModel(path(), {.threads = 1, .isa = "mmx"}); }).find("mmx"),
            std::string::npos);
  EXPECT_NE(what_fails([&] { LanguageModel(path() + "/none"); }).find("none"), std::string::npos);
}

}  // namespace
}  // namespace d2q::test
