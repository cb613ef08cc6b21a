#include "quant/options.h"

#include <cmath>
#include <functional>

#include "base/testing/expect_error.h"

namespace d2q {
namespace {

QuantizeOptions valid_options() {
  QuantizeOptions options = preset_options("paper");
  options.calibration = "text.txt";
  return options;
}

struct Mistake {
  std::function<void(QuantizeOptions&)> make;
  const char* message;
};

TEST(Options, ThePaperPresetIsThePapersMethod) {
  const QuantizeOptions options = preset_options("paper");
  EXPECT_EQ(options.bits, 2);
  EXPECT_EQ(options.group_size, 128);
  EXPECT_EQ(options.method, QuantMethod::kD2Quant);
  EXPECT_EQ(options.rotation, RotationKind::kBlock);
  EXPECT_TRUE(options.dual_scale);
  EXPECT_TRUE(options.deviation_correction);
  EXPECT_EQ(options.alpha, 0.25);
  EXPECT_EQ(options.damping, 0.01);
  EXPECT_EQ(options.samples, 128);
  EXPECT_EQ(options.sequence_length, 2048);
  EXPECT_EQ(options.seed, 0u);
}

TEST(Options, OnlyTheBestPresetTunes) {
  EXPECT_GT(preset_options("best").tune_steps, 0);
  EXPECT_EQ(preset_options("fast").tune_steps, 0);
  EXPECT_EQ(preset_options("paper").tune_steps, 0);
  EXPECT_GT(preset_options("best").end_tune_steps, 0);
  EXPECT_EQ(preset_options("fast").end_tune_steps, 0);
  EXPECT_EQ(preset_options("paper").end_tune_steps, 0);
  // Another method does not tune, whatever the preset says.
  QuantizeOptions options = preset_options("best");
  options.method = QuantMethod::kRtn;
  options.samples = 1;
  EXPECT_NO_THROW(validate(options));
}

TEST(Options, AnUnknownPresetIsNamed) {
  D2Q_EXPECT_ERROR(preset_options("fastest"), ErrorCode::kInvalidArgument, "'fastest'");
}

TEST(Options, TheLimitsThemselvesAreAllowed) {
  for (const int bits : {2, 3, 4, 8}) {
    QuantizeOptions options = valid_options();
    options.bits = bits;
    EXPECT_NO_THROW(validate(options)) << bits;
  }
  QuantizeOptions smallest = valid_options();
  smallest.group_size = 8;
  smallest.samples = 1;
  smallest.sequence_length = 2;
  smallest.alpha = 0.0;
  smallest.damping = 1e-12;
  smallest.layers = {{"down_proj", 0, 0}, {"^model\\.layers\\.0\\.", 8, 8}};
  smallest.keep = {"o_proj$"};
  EXPECT_NO_THROW(validate(smallest));
  QuantizeOptions largest = valid_options();
  largest.group_size = 65536;
  largest.samples = 1'000'000;
  largest.sequence_length = 131072;
  largest.alpha = 1.0;
  largest.damping = 1.0;
  largest.products = DType::kBF16;
  EXPECT_NO_THROW(validate(largest));
}

TEST(Options, PlainRoundingNeedsNoCalibration) {
  QuantizeOptions options = valid_options();
  options.calibration.clear();
  D2Q_EXPECT_ERROR(validate(options), ErrorCode::kInvalidArgument, "--calib");
  options.method = QuantMethod::kRtn;
  EXPECT_NO_THROW(validate(options));
}

TEST(Options, EveryMistakeIsAnErrorThatNamesTheOption) {
  using Options = QuantizeOptions;
  const Mistake mistakes[] = {
      {[](Options& o) { o.bits = 1; }, "--bits 1"},
      {[](Options& o) { o.bits = 5; }, "--bits 5"},
      {[](Options& o) { o.bits = -2; }, "--bits -2"},
      {[](Options& o) { o.group_size = 7; }, "--group: group size 7"},
      {[](Options& o) { o.group_size = 65537; }, "65537"},
      {[](Options& o) { o.samples = 0; }, "--samples 0"},
      {[](Options& o) { o.samples = 1'000'001; }, "--samples 1000001"},
      {[](Options& o) { o.sequence_length = 1; }, "--seq 1"},
      {[](Options& o) { o.sequence_length = 131073; }, "--seq 131073"},
      {[](Options& o) { o.alpha = -0.1; }, "--alpha -0.1"},
      {[](Options& o) { o.alpha = 1.5; }, "--alpha 1.5"},
      {[](Options& o) { o.alpha = NAN; }, "--alpha nan"},
      {[](Options& o) { o.tune_steps = -1; }, "--tune -1"},
      {[](Options& o) { o.tune_steps = 100'001; }, "--tune 100001"},
      {[](Options& o) { o.tune_windows = 0; }, "--tune-windows 0"},
      {[](Options& o) { o.end_tune_steps = -1; }, "--end-tune -1"},
      {[](Options& o) { o.end_tune_steps = 100'001; }, "--end-tune 100001"},
      {[](Options& o) { o.end_tune_windows = 0; }, "--end-tune-windows 0"},
      {[](Options& o) { o.end_tune_rate = 0.0; }, "--end-tune-rate 0"},
      {[](Options& o) { o.end_tune_rate = NAN; }, "--end-tune-rate nan"},
      {[](Options& o) {
         o.end_tune_steps = 1;
         o.samples = 1;
       },
       "--samples 1: tuning"},
      {[](Options& o) {
         o.tune_steps = 1;
         o.samples = 1;
       },
       "--samples 1: tuning"},
      {[](Options& o) { o.damping = 0.0; }, "--damp"},
      {[](Options& o) { o.damping = 1.01; }, "--damp"},
      {[](Options& o) { o.damping = NAN; }, "--damp"},
      {[](Options& o) {
         o.shift_gate = {ShiftGate::Kind::kSnr, -1.0};
       },
       "--dac-gate"},
      {[](Options& o) {
         o.shift_gate = {ShiftGate::Kind::kTopFraction, 1e300};
       },
       "--dac-gate: 1e+300"},
      {[](Options& o) {
         o.shift_gate = {ShiftGate::Kind::kExplained, 1.5};
       },
       "--dac-gate: 1.5"},
      {[](Options& o) { o.keep = {"\xff"}; }, "--keep: the regular expression is not valid UTF-8"},
      {[](Options& o) {
         o.shift_gate = {ShiftGate::Kind::kTopFraction, NAN};
       },
       "--dac-gate"},
      {[](Options& o) { o.products = DType::kF16; }, "products"},
      {[](Options& o) {
         o.layers = {{"([", 2, 64}};
       },
       "'(['"},
      {[](Options& o) {
         o.layers = {{"down", 7, 64}};
       },
       "bits 7"},
      {[](Options& o) {
         o.layers = {{"down", 2, 4}};
       },
       "--layer"},
      {[](Options& o) { o.keep = {"*"}; }, "--keep"},
  };
  for (const Mistake& mistake : mistakes) {
    QuantizeOptions options = valid_options();
    mistake.make(options);
    SCOPED_TRACE(mistake.message);
    D2Q_EXPECT_ERROR(validate(options), ErrorCode::kInvalidArgument, mistake.message);
  }
}

}  // namespace
}  // namespace d2q
