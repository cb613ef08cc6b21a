#include "text/unicode_classes.h"

#include <gtest/gtest.h>

#include "text/regex.h"
#include "text/testing/golden_file.h"
#include "text/utf8.h"

namespace d2q {
namespace {

template <typename Member>
int count(Member is_member) {
  int n = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c < 0xD800 || c > 0xDFFF) n += is_member(c) ? 1 : 0;
  }
  return n;
}

TEST(UnicodeClasses, HaveAsManyMembersAsTheReference) {
  const nlohmann::json sizes = testing::golden_json("tokenizer_classes.json");
  EXPECT_EQ(count(is_letter), sizes["L"]);
  EXPECT_EQ(count(is_number), sizes["N"]);
  EXPECT_EQ(count(is_numeric), sizes["digits"]);
  EXPECT_EQ(count(is_punctuation), sizes["punctuation"]);
  EXPECT_EQ(count(is_white_space), sizes["space"]);
}

TEST(UnicodeClasses, PropertiesInPatternsHaveAsManyMembersAsTheReference) {
  const nlohmann::json sizes = testing::golden_json("tokenizer_classes.json");
  for (const char* name : {"L", "Lu", "Ll", "Lm", "Lo", "N", "Nd", "M", "P", "S", "Han"}) {
    const Regex regex(std::string("\\p{") + name + "}", "test");
    Regex::Matcher matcher(regex);
    const auto matches = [&](char32_t c) {
      std::string text;
      append_utf8(text, c);
      matcher.reset(text);
      Regex::Match match;
      return matcher.next(match);
    };
    EXPECT_EQ(count(matches), sizes[name]) << name;
  }
}

TEST(UnicodeClasses, WordCharactersAreAlphabeticMarksDigitsAndConnectors) {
  for (const char32_t c :
       {U'a', U'_', U'7', U'\u0301', U'\u4E00', U'\u24B6', U'\u200D', U'\u203F'}) {
    EXPECT_TRUE(is_word_character(c)) << static_cast<uint32_t>(c);
  }
  for (const char32_t c : {U' ', U'-', U'\u00BD', U'\u2019', U'\U0001F600'}) {
    EXPECT_FALSE(is_word_character(c)) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace d2q
