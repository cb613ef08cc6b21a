#include "quant/linear_settings.h"

#include <gtest/gtest.h>

namespace d2q {
namespace {

constexpr const char* kUp = "model.layers.3.mlp.up_proj";
constexpr const char* kDown = "model.layers.3.mlp.down_proj";

QuantizeOptions options_with(int bits, QuantMethod method = QuantMethod::kD2Quant) {
  QuantizeOptions options;
  options.bits = bits;
  options.group_size = 64;
  options.method = method;
  return options;
}

TEST(LinearSettings, OnlyTheDownProjectionGetsTwoScales) {
  for (const int bits : {2, 3}) {
    const LinearSettings up = linear_settings(options_with(bits), kUp, false);
    EXPECT_EQ(up.grid.kind, GridKind::kUniform);
    EXPECT_FALSE(up.grid.column_scale);
    EXPECT_EQ(up.grid.bits, bits);
    EXPECT_EQ(up.group_size, 64);
    EXPECT_FALSE(up.keep);
    const LinearSettings down = linear_settings(options_with(bits), kDown, true);
    EXPECT_EQ(down.grid.kind, GridKind::kSignPlanes);
    EXPECT_TRUE(down.grid.column_scale);
    EXPECT_EQ(down.grid.bits, bits);
  }
}

TEST(LinearSettings, TwoScalesNeedTheMethodTheSwitchAndAtMostThreeBits) {
  for (const QuantMethod method : {QuantMethod::kGptaq, QuantMethod::kGptq, QuantMethod::kRtn}) {
    EXPECT_EQ(linear_settings(options_with(2, method), kDown, true).grid.kind, GridKind::kUniform);
  }
  for (const int bits : {4, 8}) {
    const LinearSettings settings = linear_settings(options_with(bits), kDown, true);
    EXPECT_EQ(settings.grid.kind, GridKind::kUniform);
    EXPECT_FALSE(settings.grid.column_scale);
  }
  QuantizeOptions off = options_with(2);
  off.dual_scale = false;
  EXPECT_EQ(linear_settings(off, kDown, true).grid.kind, GridKind::kUniform);
}

TEST(LinearSettings, LaterOverridesWinAndZeroLeavesAsItIs) {
  QuantizeOptions options = options_with(2);
  options.layers = {{"mlp", 3, 32}, {"layers\\.3\\..*down", 4, 0}, {"layers\\.4\\.", 8, 16}};
  const LinearSettings up = linear_settings(options, kUp, false);
  EXPECT_EQ(up.grid.bits, 3);
  EXPECT_EQ(up.group_size, 32);
  const LinearSettings down = linear_settings(options, kDown, true);
  EXPECT_EQ(down.grid.bits, 4);
  EXPECT_EQ(down.group_size, 32);
  // The grid follows the overridden width.
  EXPECT_EQ(down.grid.kind, GridKind::kUniform);
  const LinearSettings other = linear_settings(options, "model.layers.3.self_attn.q_proj", false);
  EXPECT_EQ(other.grid.bits, 2);
  EXPECT_EQ(other.group_size, 64);
}

TEST(LinearSettings, AnOverrideBelowFourBitsBringsTheTwoScalesBack) {
  QuantizeOptions options = options_with(4);
  options.layers = {{"down_proj$", 2, 0}};
  const LinearSettings down = linear_settings(options, kDown, true);
  EXPECT_EQ(down.grid.kind, GridKind::kSignPlanes);
  EXPECT_EQ(down.grid.bits, 2);
}

TEST(LinearSettings, AnyKeepPatternKeeps) {
  QuantizeOptions options = options_with(2);
  options.keep = {"q_proj", "layers\\.3\\.mlp\\.up"};
  EXPECT_TRUE(linear_settings(options, kUp, false).keep);
  EXPECT_FALSE(linear_settings(options, kDown, true).keep);
  EXPECT_TRUE(linear_settings(options, "model.layers.0.self_attn.q_proj", false).keep);
}

TEST(LinearSettingsTest, OnlyAGateOrReluLetsAColumnScaleThrough) {
  ModelConfig config;
  config.family = "llama";
  EXPECT_TRUE(absorbs_column_scale(config, "down_proj"));
  EXPECT_FALSE(absorbs_column_scale(config, "o_proj"));
  config.family = "opt";
  config.activation = Activation::kRelu;
  EXPECT_TRUE(absorbs_column_scale(config, "down_proj"));
  config.activation = Activation::kGelu;
  EXPECT_FALSE(absorbs_column_scale(config, "down_proj"));
}

}  // namespace
}  // namespace d2q
