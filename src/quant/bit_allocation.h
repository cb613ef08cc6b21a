// Mixed bits: which linears get more of them, so that the model as a whole takes no more than a
// given number of bits a weight (docs/method.md, "Mixed bits").
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/block.h"
#include "quant/options.h"

namespace d2q {

/// A linear at one number of bits.
struct BitChoice {
  int bits = 0;
  int64_t packed_bits = 0;  // codes and scales
  double error = 0.0;       // what rounding this linear alone does to its block's output
};

/// A linear and the numbers of bits it may have, ascending; one when it is not free.
struct LinearSensitivity {
  std::string name;
  int64_t n_weights = 0;
  std::vector<BitChoice> choices;
};

/// Bits by linear's name, so that Σ packed_bits <= target_bits · Σ n_weights: starting from the
/// fewest, the step with the largest fall of error for each bit it costs is taken while it fits.
/// Throws Error{kInvalidArgument} when even the fewest are more than the target.
std::map<std::string, int> allocate_bits(std::span<const LinearSensitivity> linears,
                                         double target_bits);

/// Rounds each linear of each block alone, to options.bits and to the next number of bits above,
/// and measures mean (norm(y_rounded) − norm(y))² of the block's output over `ids` (whole windows
/// of options.sequence_length tokens), norm being the family's with gain 1: what the next layer
/// sees, every token weighing the same. Errors at still more bits are extrapolated by the ratio of
/// the two. Linears whose bits an override gives, and kept ones, are not free. Cost: 15 forwards of
/// `ids` through the model, and two plain roundings of it.
std::vector<LinearSensitivity> measure_sensitivity(
    Device& device, const WeightSource& source, const QuantizeOptions& options,
    const RopeTables& rope, std::span<const int32_t> ids,
    const std::function<void(int64_t layer)>& on_block);

}  // namespace d2q
