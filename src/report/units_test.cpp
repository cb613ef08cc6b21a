#include "report/units.h"

#include <gtest/gtest.h>

namespace d2q {
namespace {

TEST(Units, BytesAreShownInPowersOfAThousand) {
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(2.5e9), "2.50 GB");
  EXPECT_EQ(format_bytes(1e18), "1000000.00 TB");
}

TEST(Units, DurationsAreShownInMinutesAndHours) {
  EXPECT_EQ(format_duration(0.4), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(3723.0), "1:02:03");
}

}  // namespace
}  // namespace d2q
