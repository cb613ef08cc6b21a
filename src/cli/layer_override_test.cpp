#include "cli/layer_override.h"

#include <gtest/gtest.h>

#include "cli/usage.h"

namespace d2q::cli {
namespace {

TEST(LayerOverride, ReadsBothSettingsInAnyOrder) {
  const LayerOverride a = parse_layer_override("down_proj=bits=4,group=64");
  EXPECT_EQ(a.pattern, "down_proj");
  EXPECT_EQ(a.bits, 4);
  EXPECT_EQ(a.group_size, 64);
  const LayerOverride b = parse_layer_override("down_proj=group=32");
  EXPECT_EQ(b.bits, 0);
  EXPECT_EQ(b.group_size, 32);
}

TEST(LayerOverride, LeavesEqualsSignsAndCommasToThePattern) {
  const LayerOverride a = parse_layer_override("layers\\.(0|1){1,2}(?=\\.mlp)=bits=3");
  EXPECT_EQ(a.pattern, "layers\\.(0|1){1,2}(?=\\.mlp)");
  EXPECT_EQ(a.bits, 3);
}

TEST(LayerOverride, RefusesWhatIsNotASetting) {
  for (const char* text :
       {"", "down_proj", "=bits=4", "x=bits=", "x=bits=four", "x=bits=-2", "x=bits=4,size=3",
        "x=bits=4,group", "x=bits=4x", "x=bits=99999999999"}) {
    EXPECT_THROW(parse_layer_override(text), UsageError) << text;
  }
}

}  // namespace
}  // namespace d2q::cli
