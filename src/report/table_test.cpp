#include "report/table.h"

#include <gtest/gtest.h>

namespace d2q {
namespace {

const Table kTable = {{"model", "size"},
                      {{{"a|b", "a|b"}, {"1.50 GB", "1500000001"}},
                       {{"\xc3\xa9, \"x\"", "\xc3\xa9, \"x\""}, {"", ""}}}};

TEST(Table, text_is_aligned_by_characters) {
  EXPECT_EQ(to_text(kTable), "model      size\na|b     1.50 GB\n\xc3\xa9, \"x\"         \n");
}

TEST(Table, markdown_escapes_bars) {
  EXPECT_EQ(to_markdown(kTable),
            "| model | size |\n|---|---:|\n| a\\|b | 1.50 GB |\n| \xc3\xa9, \"x\" |  |\n");
}

TEST(Table, csv_is_exact_and_quoted) {
  EXPECT_EQ(to_csv(kTable), "model,size\r\na|b,1500000001\r\n\"\xc3\xa9, \"\"x\"\"\",\r\n");
}

}  // namespace
}  // namespace d2q
