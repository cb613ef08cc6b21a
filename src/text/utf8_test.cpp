#include "text/utf8.h"

#include <gtest/gtest.h>

#include "text/byte_alphabet.h"
#include "text/tokenizer.h"

namespace d2q {
namespace {

const std::string kBad = "\xEF\xBF\xBD";

TEST(Utf8, EveryCodePointSurvivesWritingAndReading) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text = "x";
    append_utf8(text, c);
    ASSERT_TRUE(is_valid_utf8(text)) << static_cast<uint32_t>(c);
    const Utf8Step step = next_utf8(text, 1);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.length, text.size() - 1);
    ASSERT_EQ(next_valid_utf8(text, 1).code_point, c);
    ASSERT_EQ(previous_valid_utf8(text, text.size()).code_point, c);
  }
}

TEST(Utf8, MalformedPartsBecomeOneReplacementEach) {
  // The table of "maximal subparts" in the Unicode standard, chapter 3.9.
  EXPECT_EQ(replace_malformed_utf8("a\xF1\x80\x80\xE1\x80\xC2"
                                   "b\x80"
                                   "c\x80\xBF"
                                   "d"),
            "a" + kBad + kBad + kBad + "b" + kBad + "c" + kBad + kBad + "d");
  EXPECT_EQ(replace_malformed_utf8("\xC0\xAF"), kBad + kBad);
  EXPECT_EQ(replace_malformed_utf8("\xE0\x80\xAF"), kBad + kBad + kBad);
  EXPECT_EQ(replace_malformed_utf8("\xED\xA0\x80"), kBad + kBad + kBad);
  EXPECT_EQ(replace_malformed_utf8("\xF4\x90\x80\x80"), kBad + kBad + kBad + kBad);
  EXPECT_EQ(replace_malformed_utf8("\xF0\x9F\x98"), kBad);
  EXPECT_EQ(replace_malformed_utf8("fine \xC3\xA9"), "fine \xC3\xA9");
}

TEST(Utf8, ValidityIsFoundAtEveryOffset) {
  for (size_t before = 0; before < 20; ++before) {
    const std::string padding(before, 'a');
    EXPECT_TRUE(is_valid_utf8(padding + "\xE2\x82\xAC" + padding));
    EXPECT_FALSE(is_valid_utf8(padding + "\xE2\x82" + padding));
  }
}

TEST(Utf8Stream, GivesTheSameTextHoweverTheBytesAreCut) {
  const std::string text = "h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\xFF\xE2\x82z\xF0\x9F";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    for (size_t second = cut; second <= text.size(); ++second) {
      Utf8Stream stream;
      std::string out = stream.push(std::string_view(text).substr(0, cut));
      out += stream.push(std::string_view(text).substr(cut, second - cut));
      out += stream.push(std::string_view(text).substr(second));
      out += stream.finish();
      ASSERT_EQ(out, replace_malformed_utf8(text)) << cut << " " << second;
    }
  }
}

TEST(Utf8Stream, HoldsBackOnlyAnIncompleteCharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xE2\x82"), "a");
  EXPECT_EQ(stream.push("\xAC"
                        "b"),
            "\xE2\x82\xAC"
            "b");
  EXPECT_EQ(stream.push("\xF0\x9F"), "");
  EXPECT_EQ(stream.push("x"), kBad + "x");
  EXPECT_EQ(stream.push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.finish(), kBad);
  EXPECT_EQ(stream.finish(), "");
}

TEST(ByteAlphabet, EveryByteHasACharacterOfItsOwn) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  EXPECT_EQ(from_alphabet(to_alphabet(bytes)), bytes);
  EXPECT_EQ(to_alphabet(" a\n"),
            "\xC4\xA0"
            "a\xC4\x8A");
  EXPECT_EQ(from_alphabet("a b"), std::nullopt);
  EXPECT_EQ(from_alphabet("\xE2\x96\x81"), std::nullopt);
  EXPECT_EQ(alphabet_byte(0x144), std::nullopt);
  EXPECT_EQ(alphabet_byte(0x10FFFF), std::nullopt);
}

}  // namespace
}  // namespace d2q
