#include "eval/harness_text.h"

#include <gtest/gtest.h>

namespace d2q {
namespace {

// Expected values: what Python's str methods and the harness's own function give.

TEST(HarnessText, strip_takes_white_space_of_any_script) {
  EXPECT_EQ(strip(" \t\n a b \xc2\xa0\xe3\x80\x80\x1f"), "a b");
  EXPECT_EQ(strip(" \n"), "");
  EXPECT_EQ(trailing_space("ab \xc2\xa0"), 3u);
  EXPECT_EQ(trailing_space(""), 0u);
}

TEST(HarnessText, capitalize_lowers_all_but_the_first_character) {
  EXPECT_EQ(capitalize("the NASA man"), "The nasa man");
  EXPECT_EQ(capitalize("\xc3\xa9t\xc3\x89"), "\xc3\x89t\xc3\xa9");
  EXPECT_EQ(capitalize(""), "");
}

TEST(HarnessText, characters_are_counted_not_bytes) {
  EXPECT_EQ(count_characters("\xc3\xa9t\xc3\xa9"), 3);
  EXPECT_EQ(count_characters(""), 0);
}

TEST(HarnessText, hellaswag_loses_its_marks) {
  EXPECT_EQ(clean_hellaswag(" How to cook [title] Boil  water. [step] Wait [a [b] c] "),
            "How to cook. Boil water. Wait c]");
  EXPECT_EQ(clean_hellaswag("open [bracket"), "open [bracket");
  EXPECT_EQ(clean_hellaswag("a [x\ny] b"), "a [x\ny] b");
}

}  // namespace
}  // namespace d2q
