// The check at the end of quantization: does the result still predict text as the original does?
// Two passes over a few thousand tokens, block by block, so that memory stays at one block's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/progress.h"
#include "kernels/device.h"
#include "model/transformer.h"

namespace d2q {

/// A result whose perplexity is above this many times the original's has collapsed. The published
/// method at 2 bits gives 3 to 4 times the original's on a model of 135 million weights, plain GPTQ
/// 6 times, rounding to nearest thousands.
inline constexpr double kCollapseRatio = 10.0;

struct SanityResult {
  double original_perplexity = 0.0;
  double perplexity = 0.0;  // NaN or infinite where the result gives that
  double ratio = 0.0;
  int64_t tokens = 0;  // scored
  int64_t windows = 0;
  int64_t ctx = 0;
  bool constant_output = false;  // the result predicts one token everywhere, the original does not
  std::string collapse;          // why the result is unusable; empty when it is fine
  double seconds = 0.0;
};

/// `ids`: windows of `ctx` tokens, at most a few thousand in all. `products` as quantization had
/// them. Throws Error{kNumeric} when the original itself gives no finite perplexity.
SanityResult check_sanity(Device& device, std::shared_ptr<const WeightSource> original,
                          std::shared_ptr<const WeightSource> result,
                          const std::vector<int32_t>& ids, int64_t ctx, DType products,
                          const ProgressSink& progress);

}  // namespace d2q
