#include "quant/options.h"

#include <regex>
#include <utility>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q {

QuantizeOptions preset_options(const std::string& preset) {
  QuantizeOptions options;
  if (preset == "paper") return options;
  options.refine = true;
  options.sign_planes = true;
  options.alpha = 0.4;  // with the exact target; measured against 0.25 and 0.6 in docs/results.md
  if (preset == "best") {
    options.refine_rounds = 5;
    options.tune_steps = 20;
    options.end_tune_steps = 30;
    return options;
  }
  if (preset == "fast") {
    options.samples = 32;
    options.refine_rounds = 2;
    return options;
  }
  fail(ErrorCode::kInvalidArgument, "preset '{}' is not known; the presets are: best, paper, fast",
       preset);
}

namespace {

bool is_supported(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

void validate_pattern(const std::string& pattern, const char* option) {
  // Names of linears are plain letters; run.json and the report hold the pattern as JSON.
  if (!is_valid_utf8(pattern))
    fail(ErrorCode::kInvalidArgument, "{}: the regular expression is not valid UTF-8", option);
  try {
    const std::regex compiled(pattern);
  } catch (const std::regex_error& e) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is not a regular expression: {}", option, pattern,
         e.what());
  }
}

void validate_group(int64_t group_size, const char* option) {
  if (group_size < 8 || group_size > 65536) {
    fail(ErrorCode::kInvalidArgument, "{}: group size {} is not between 8 and 65536", option,
         group_size);
  }
}

void validate_tuning(const QuantizeOptions& options) {
  for (const auto& [option, steps] :
       {std::pair{"--tune", options.tune_steps}, {"--end-tune", options.end_tune_steps}}) {
    if (steps < 0 || steps > 100'000)
      fail(ErrorCode::kInvalidArgument, "{} {} is not between 0 and 100000", option, steps);
  }
  for (const auto& [option, windows] : {std::pair{"--tune-windows", options.tune_windows},
                                        {"--end-tune-windows", options.end_tune_windows}}) {
    if (windows < 1 || windows > 1'000'000)
      fail(ErrorCode::kInvalidArgument, "{} {} is not between 1 and 1000000", option, windows);
  }
  if (!(options.end_tune_rate > 0.0 && options.end_tune_rate <= 1.0)) {
    fail(ErrorCode::kInvalidArgument, "--end-tune-rate {} is not above 0 and at most 1",
         options.end_tune_rate);
  }
  if (options.tune_steps + options.end_tune_steps > 0 && options.samples < 2 &&
      options.method == QuantMethod::kD2Quant) {
    fail(ErrorCode::kInvalidArgument,
         "--samples {}: tuning holds a window out, so it needs two at least; pass more or --tune "
         "off --end-tune off",
         options.samples);
  }
}

}  // namespace

void validate(const QuantizeOptions& options) {
  if (!is_supported(options.bits)) {
    fail(ErrorCode::kInvalidArgument, "--bits {}: the choices are 2, 3, 4 and 8", options.bits);
  }
  validate_group(options.group_size, "--group");
  if (options.samples < 1 || options.samples > 1'000'000) {
    fail(ErrorCode::kInvalidArgument, "--samples {} is not between 1 and 1000000", options.samples);
  }
  if (options.sequence_length < 2 || options.sequence_length > 131072) {
    fail(ErrorCode::kInvalidArgument, "--seq {} is not between 2 and 131072",
         options.sequence_length);
  }
  if (options.target_bits != 0.0) {
    if (!(options.target_bits >= options.bits && options.target_bits <= 8.0)) {
      fail(ErrorCode::kInvalidArgument, "--target-bits {} is not between --bits {} and 8",
           options.target_bits, options.bits);
    }
    if (options.method == QuantMethod::kRtn) {
      fail(ErrorCode::kInvalidArgument,
           "--target-bits measures how linears bear rounding on calibration text, which --method "
           "rtn "
           "does without");
    }
  }
  if (!(options.alpha >= 0.0 && options.alpha <= 1.0)) {
    fail(ErrorCode::kInvalidArgument, "--alpha {} is not between 0 and 1", options.alpha);
  }
  if (options.refine_rounds < 0 || options.refine_rounds > 100) {
    fail(ErrorCode::kInvalidArgument, "--refine {} is not between 0 and 100",
         options.refine_rounds);
  }
  if (!(options.damping > 0.0 && options.damping <= 1.0)) {
    fail(ErrorCode::kInvalidArgument, "--damping {} is not above 0 and at most 1", options.damping);
  }
  validate_tuning(options);
  if (options.shift_gate.kind != ShiftGate::Kind::kNone && !(options.shift_gate.threshold >= 0.0)) {
    fail(ErrorCode::kInvalidArgument, "--dac-gate: threshold {} is negative",
         options.shift_gate.threshold);
  }
  const bool is_share = options.shift_gate.kind == ShiftGate::Kind::kTopFraction ||
                        options.shift_gate.kind == ShiftGate::Kind::kExplained;
  if (is_share && options.shift_gate.threshold > 1.0) {
    fail(ErrorCode::kInvalidArgument, "--dac-gate: {} is not a share, 1 at most",
         options.shift_gate.threshold);
  }
  if (options.portable_grid && options.target_bits != 0.0) {
    fail(ErrorCode::kInvalidArgument,
         "--grid portable with --target-bits: other bits than 2 are not portable");
  }
  if (options.portable_grid && (options.bits != 2 || options.group_size % 64 != 0)) {
    fail(
        ErrorCode::kInvalidArgument,
        "--grid portable: {} bits in groups of {}; it is made of 2 bits in groups of a multiple of "
        "64",
        options.bits, options.group_size);
  }
  if (options.calibration.empty() && options.method != QuantMethod::kRtn) {
    fail(ErrorCode::kInvalidArgument,
         "--calib FILE (or --calib self) is needed by every method but rtn");
  }
  if (options.products != DType::kF32 && options.products != DType::kBF16) {
    fail(ErrorCode::kInvalidArgument, "products are f32 or bf16");
  }
  for (const LayerOverride& layer : options.layers) {
    validate_pattern(layer.pattern, "--layer");
    if (layer.bits != 0 && !is_supported(layer.bits)) {
      fail(ErrorCode::kInvalidArgument, "--layer {}: bits {}: the choices are 2, 3, 4 and 8",
           layer.pattern, layer.bits);
    }
    if (layer.group_size != 0) validate_group(layer.group_size, "--layer");
  }
  for (const auto& [option, bits] :
       {std::pair{"--embed-bits", options.embed_bits}, {"--head-bits", options.head_bits}}) {
    if (bits != 4 && bits != 6 && bits != 8 && bits != 16) {
      fail(ErrorCode::kInvalidArgument, "{} {}: the choices are 4, 6, 8 and 16", option, bits);
    }
  }
  for (const std::string& pattern : options.keep) validate_pattern(pattern, "--keep");
}

}  // namespace d2q
