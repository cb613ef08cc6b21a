// Perplexity by the usual protocol: windows of a text (eval/text_windows.h), every token scored
// once from the tokens before it in its window.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/progress.h"
#include "eval/text_windows.h"
#include "model/transformer.h"
#include "text/tokenizer.h"

namespace d2q {

struct PerplexityResult {
  double perplexity = 0.0;  // exp(nll)
  double nll = 0.0;         // mean negative log likelihood of a token, in nats
  /// Of `nll`, over windows (eval/estimate.h); absent with fewer than two windows.
  std::optional<double> nll_standard_error;
  int64_t tokens = 0;  // scored
  int64_t windows = 0;
  int64_t ctx = 0;
  int64_t stride = 0;
  double seconds = 0.0;  // of the model's work, tokenizing included
};

/// Throws what TextWindows does, and Error{kNumeric} naming the window when a loss is not finite.
/// Losses are summed in f64.
PerplexityResult perplexity(Device& device, Transformer& transformer, const Tokenizer& tokenizer,
                            std::string_view text, const WindowOptions& options,
                            const ProgressSink& progress);

}  // namespace d2q
