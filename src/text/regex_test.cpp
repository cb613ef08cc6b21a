#include "text/regex.h"

#include <vector>

#include "base/testing/expect_error.h"

namespace d2q {
namespace {

std::vector<std::string> matches(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern, "test");
  Regex::Matcher matcher(regex);
  matcher.reset(text);
  std::vector<std::string> found;
  for (Regex::Match match; matcher.next(match);) {
    found.emplace_back(text.substr(match.start, match.end - match.start));
  }
  return found;
}

using Strings = std::vector<std::string>;

TEST(Regex, AnIntervalFollowedByPlusRepeats) {
  // PCRE2 alone would read {1,3}+ as possessive and stop after three.
  EXPECT_EQ(matches("\\d{1,3}+x", "12345x"), (Strings{"12345x"}));
  EXPECT_EQ(matches("(?:ab){2}?c", "ababc c"), (Strings{"ababc", "c"}));
  EXPECT_EQ(matches("a{,2}b", "aaab"), (Strings{"aab"}));
  EXPECT_EQ(matches("a{b}", "a{b}"), (Strings{"a{b}"}));
}

TEST(Regex, SpaceIsUnicodeWhiteSpaceAndNothingElse) {
  EXPECT_EQ(matches("\\s",
                    "a\xC2\xA0"
                    "b\xE1\xA0\x8E"
                    "c\xE3\x80\x80"),
            (Strings{"\xC2\xA0", "\xE3\x80\x80"}));
  EXPECT_EQ(matches("[^\\s]+", "ab \xE1\xA0\x8E"), (Strings{"ab", "\xE1\xA0\x8E"}));
  EXPECT_EQ(matches("[\\S]+", "ab\n\xE1\xA0\x8E"), (Strings{"ab", "\xE1\xA0\x8E"}));
}

TEST(Regex, AnchorsStandAtLines) {
  EXPECT_EQ(matches("^a", "a\na"), (Strings{"a", "a"}));
  EXPECT_EQ(matches("a$", "a\na"), (Strings{"a", "a"}));
  EXPECT_EQ(matches("\\Aa", "a\na"), (Strings{"a"}));
}

TEST(Regex, EmptyMatchesNeverFollowAMatch) { EXPECT_EQ(matches("x*", "xxa"), (Strings{"xx", ""})); }

TEST(Regex, EscapedTextMatchesItself) {
  for (const std::string text : {"a.b*c", "[x]{2}\\d", "\xE2\x96\x81^$|()#- \n", "\\Q\\E"}) {
    EXPECT_EQ(matches(escape_pattern(text), "<" + text + ">"), (Strings{text}));
  }
}

TEST(Regex, WhatOnigurumaReadsDifferentlyIsRefused) {
  for (const char* pattern : {"\\h",     "\\R",
                              "\\X",     "\\K",
                              "\\Qa\\E", "\\bx",
                              "\\1",     "(a)\\1",
                              "\\g<1>",  "[a[b]]",
                              "[a&&b]",  "[[:alpha:]]",
                              "(?<n>a)", "(?P<n>a)",
                              "(?R)",    "(?m:.)",
                              "(?x: a)", "(*FAIL)",
                              "(?#c)",   "[\\P{L}]",
                              "[\\W]",   "\\xC3",
                              "\\o{7}",  "\\cA",
                              "[\\A]",   "\\p{NoSuchThing}",
                              "a**"}) {
    D2Q_EXPECT_ERROR(Regex(pattern, "test"), ErrorCode::kUnsupported, "test: pattern");
  }
}

TEST(Regex, BrokenPatternsAreErrors) {
  for (const char* pattern : {"(", ")", "[a", "\\", "\\p", "\\p{", "\\p{L", "\\p{L!}", "\\x{",
                              "\\x{}", "\\x{zz}", "\\u12", "[", "[]", "(?:a", "\\x{0000000}"}) {
    D2Q_EXPECT_ERROR(Regex(pattern, "test"), ErrorCode::kCorrupt, "is broken");
  }
  D2Q_EXPECT_ERROR(Regex("\xFF", "test"), ErrorCode::kCorrupt, "UTF-8");
  D2Q_EXPECT_ERROR(Regex(std::string(70'000, 'a'), "test"), ErrorCode::kUnsupported, "limit");
  D2Q_EXPECT_ERROR(Regex(std::string(65, '(') + std::string(65, ')'), "test"),
                   ErrorCode::kUnsupported, "deeper than 64");
}

TEST(Regex, ExplosiveBacktrackingEndsInAnError) {
  const std::string text = std::string(64, 'a') + "-b";
  D2Q_EXPECT_ERROR(matches("(?:a|a)*b", text), ErrorCode::kUnsupported, "backtracks too much");
}

}  // namespace
}  // namespace d2q
