// Everything that a quantization run can be told.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace d2q {

enum class QuantMethod { kD2Quant, kGptaq, kGptq, kRtn };
enum class RotationKind { kBlock, kFull, kNone };

/// Which channels Deviation-Aware Correction shifts (METHOD.md §6): all, those with SNR >=
/// threshold, the top fraction by SNR, or those with an explained share snr²/(1+snr²) >= threshold.
struct ShiftGate {
  enum class Kind { kNone, kSnr, kTopFraction, kExplained };
  Kind kind = Kind::kNone;
  double threshold = 0.0;
};

/// `--layer REGEX=bits=4,group=64`: other settings for the linears whose HF name matches.
struct LayerOverride {
  std::string pattern;
  int bits = 0;            // 0 = as the rest
  int64_t group_size = 0;  // 0 = as the rest
};

struct QuantizeOptions {
  int bits = 2;  // 2, 3, 4 or 8
  int64_t group_size = 128;
  QuantMethod method = QuantMethod::kD2Quant;
  RotationKind rotation = RotationKind::kBlock;
  bool dual_scale = true;            // DSQ on down_proj (method d2quant, 2 and 3 bits)
  bool deviation_correction = true;  // DAC (method d2quant)
  bool final_correction = true;      // DAC on the final norm, too
  ShiftGate shift_gate;
  double alpha = 0.25;       // weight of the asymmetric term (METHOD.md §4)
  bool refine = false;       // METHOD.md §8.1, §8.3-§8.5 in place of §4's asymmetric term
  int refine_rounds = 0;     // R: rounds of scale refit and code descent
  bool sign_planes = false;  // §8.2: sign-plane levels on every linear of 2 or 3 bits
  /// Only what other software's formats hold exactly: uniform grids of 2 bits whose zeros are 1 or
  /// 2 (GGUF's Q2_0), no column scales, no tuning of scales.
  bool portable_grid = false;
  int64_t tune_steps = 0;      // METHOD.md §9: steps of block tuning (method d2quant); 0 = none
  int64_t tune_windows = 2;    // calibration windows a step
  int64_t end_tune_steps = 0;  // §9.2: steps of tuning the whole model (method d2quant); 0 = none
  int64_t end_tune_windows = 2;  // calibration windows a step
  double end_tune_rate = 3e-3;   // its largest step, of factors on scales and of gains
  bool tune_shifts = true;       // shifts of the norms, beside scales and gains
  double damping = 0.01;         // share of mean(diag Hess) added to the diagonal
  std::string calibration;       // a text or jsonl file, or "self"
  int64_t samples = 128;
  int64_t sequence_length = 2048;
  uint64_t seed = 0;
  DType products = DType::kF32;  // kBF16: streams' products in bf16 with f32 sums
  std::vector<LayerOverride> layers;
  std::vector<std::string> keep;  // regexes of linears left in f16
  double target_bits = 0.0;  // most bits a weight, scales included; 0 = `bits` for every linear
  std::map<std::string, int> allocated_bits;  // by linear, how target_bits was spent
  int embed_bits = 16;  // embedding: 4, 6 or 8, rounded to a uniform grid of group_size; 16: f16
  int head_bits = 16;   // the same for the head; one with tied embeddings has the embedding's
  bool resume = false;
  bool overwrite = false;
  std::string tool_version;
};

/// The preset's options: "paper" is METHOD.md §1-§6. Throws Error{kInvalidArgument} for an unknown
/// name.
QuantizeOptions preset_options(const std::string& preset);

/// Throws Error{kInvalidArgument} in one sentence when the options contradict each other or a
/// limit.
void validate(const QuantizeOptions& options);

}  // namespace d2q
