// How far a model's predictions are from a reference model's on the same text: both run side by
// side over the windows of eval/text_windows.h, and no logits outlive their slice.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/progress.h"
#include "eval/estimate.h"
#include "eval/text_windows.h"
#include "model/transformer.h"
#include "text/tokenizer.h"

namespace d2q {

struct DivergenceResult {
  Estimate kld;  // mean KL(reference || model) of a token's prediction, in nats; error over windows
  double median = 0.0;
  double percentile_99_9 = 0.0;
  double maximum = 0.0;
  Estimate top_agreement;         // share of tokens whose most likely prediction is the same
  double rms_probability = 0.0;   // sqrt(mean (p - p_reference)²) of the text's own token
  double mean_probability = 0.0;  // mean (p - p_reference): the sign of the drift
  double perplexity = 0.0;
  double reference_perplexity = 0.0;
  int64_t tokens = 0;
  int64_t windows = 0;
  int64_t ctx = 0;
  int64_t stride = 0;
  double seconds = 0.0;
};

/// Throws what TextWindows does, Error{kInvalidArgument} when the two models have different
/// vocabularies or tokenize the text differently, and Error{kNumeric} naming the window when a
/// divergence is not finite.
DivergenceResult divergence(Device& device, Transformer& reference,
                            const Tokenizer& reference_tokenizer, Transformer& model,
                            const Tokenizer& tokenizer, std::string_view text,
                            const WindowOptions& options, const ProgressSink& progress);

}  // namespace d2q
