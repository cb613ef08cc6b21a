// The scanners against the regular expressions that they stand for.
#include "text/word_scanner.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "text/regex.h"
#include "text/utf8.h"

namespace d2q {
namespace {

constexpr std::string_view kPatterns[] = {
    WordScanner::kGpt2Pattern,
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

void expect_same_words(const WordScanner& scanner, Regex::Matcher& matcher,
                       const std::string& text) {
  matcher.reset(text);
  Regex::Match match;
  size_t at = 0;
  while (matcher.next(match)) {
    ASSERT_EQ(match.start, at) << "'" << text << "'";
    at = scanner.word_end(text, at);
    ASSERT_EQ(at, match.end) << "'" << text << "' from " << match.start;
  }
  EXPECT_EQ(at, text.size());
}

TEST(WordScanner, KnowsItsPatternsAndNoOther) {
  for (const std::string_view pattern : kPatterns) EXPECT_TRUE(WordScanner::for_pattern(pattern));
  EXPECT_FALSE(WordScanner::for_pattern(R"(\s+)"));
  EXPECT_FALSE(WordScanner::for_pattern(""));
}

TEST(WordScanner, CutsEveryCharacterAsThePatternDoes) {
  for (const std::string_view pattern : kPatterns) {
    const WordScanner scanner = *WordScanner::for_pattern(pattern);
    const Regex regex(pattern, "t");
    Regex::Matcher matcher(regex);
    std::string text;
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      append_utf8(text, c);
      text += c % 3 == 0 ? " a" : c % 3 == 1 ? "1" : "'";
      if (c % 4096 != 4095) continue;
      expect_same_words(scanner, matcher, text);
      text.clear();
    }
  }
}

TEST(WordScanner, CutsRandomTextAsThePatternDoes) {
  const std::vector<std::string> parts = {" ",
                                          "  ",
                                          "\n",
                                          "\r",
                                          "\t",
                                          "\x0B",
                                          "\xC2\xA0",
                                          "\xE2\x80\xA8",
                                          "a",
                                          "Z",
                                          "re",
                                          "ll",
                                          "'",
                                          "'s",
                                          "'LL",
                                          "'\xC5\xBF",
                                          "'Ve",
                                          "d",
                                          "7",
                                          "42",
                                          ".",
                                          "!",
                                          "\"(",
                                          "\xC3\xA9",
                                          "\xE4\xBD\xA0",
                                          "\xD9\xA1",
                                          "\xF0\x9F\x98\x80",
                                          "_",
                                          "\xCC\x81",
                                          "\xC2\x85",
                                          "m",
                                          "T",
                                          "v"};
  Rng rng(11);
  for (const std::string_view pattern : kPatterns) {
    const WordScanner scanner = *WordScanner::for_pattern(pattern);
    const Regex regex(pattern, "t");
    Regex::Matcher matcher(regex);
    for (int round = 0; round < 20000; ++round) {
      std::string text;
      for (uint64_t i = 1 + rng.below(12); i > 0; --i) text += parts[rng.below(parts.size())];
      expect_same_words(scanner, matcher, text);
    }
  }
}

}  // namespace
}  // namespace d2q
