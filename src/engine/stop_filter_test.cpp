#include "engine/stop_filter.h"

#include <gtest/gtest.h>

namespace d2q {
namespace {

TEST(StopFilter, PassesTextThatHasNoStop) {
  StopFilter filter({"END", ""});
  EXPECT_EQ(filter.push("hello "), "hello ");
  EXPECT_EQ(filter.push("world"), "world");
  EXPECT_EQ(filter.finish(), "");
  EXPECT_FALSE(filter.stopped());
}

TEST(StopFilter, FindsAStopThatArrivesInPieces) {
  StopFilter filter({"\n\nUser:"});
  EXPECT_EQ(filter.push("Yes.\n"), "Yes.");
  EXPECT_EQ(filter.push("\nUs"), "");
  EXPECT_EQ(filter.push("er: more"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("after"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopFilter, GivesBackAFalseBeginning) {
  StopFilter filter({"abac"});
  EXPECT_EQ(filter.push("xaba"), "x");
  EXPECT_EQ(filter.push("bac!"), "ab");
  EXPECT_TRUE(filter.stopped());
  StopFilter open({"abac"});
  EXPECT_EQ(open.push("aba"), "");
  EXPECT_EQ(open.finish(), "aba");
}

TEST(StopFilter, TakesTheFirstOfSeveralStops) {
  StopFilter filter({"three", "two"});
  EXPECT_EQ(filter.push("one two three"), "one ");
  EXPECT_TRUE(filter.stopped());
}

}  // namespace
}  // namespace d2q
