// Perplexity by the usual protocol: the text is tokenized whole without BOS and cut into windows of
// `ctx` tokens without overlap; a window scores its last ctx-1 tokens; the remainder is dropped.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/progress.h"
#include "model/transformer.h"
#include "text/tokenizer.h"

namespace d2q {

struct PerplexityOptions {
  int64_t ctx = 2048;       // tokens a window, at least 2
  int64_t max_windows = 0;  // score only the first so many; 0 = all
  int64_t limit_bytes =
      0;  // read only the text's first so many bytes, cut between characters; 0 = all
};

struct PerplexityResult {
  double perplexity = 0.0;  // exp(nll)
  double nll = 0.0;         // mean negative log likelihood of a token, in nats
  /// Standard error of `nll` over the windows' means, since tokens of one window are not
  /// independent; absent with fewer than two windows.
  std::optional<double> nll_standard_error;
  int64_t tokens = 0;  // scored: windows * (ctx - 1)
  int64_t windows = 0;
  int64_t ctx = 0;
  double seconds = 0.0;  // of the model's work, tokenizing included
};

/// Throws Error{kInvalidArgument} for bad options or a text shorter than one window,
/// Error{kCorrupt} when the tokenizer's ids exceed the model's vocabulary, Error{kNumeric} naming
/// the window when a loss is not finite. Losses are summed in f64.
PerplexityResult perplexity(Device& device, Transformer& transformer, const Tokenizer& tokenizer,
                            std::string_view text, const PerplexityOptions& options,
                            const ProgressSink& progress);

}  // namespace d2q
