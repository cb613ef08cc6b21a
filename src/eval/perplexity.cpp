#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "eval/estimate.h"
#include "eval/token_losses.h"

namespace d2q {

PerplexityResult perplexity(Device& device, Transformer& transformer, const Tokenizer& tokenizer,
                            std::string_view text, const WindowOptions& options,
                            const ProgressSink& progress) {
  const auto start = std::chrono::steady_clock::now();
  const TextWindows windows(tokenizer, text, transformer.config().vocab_size, options);
  const int64_t ctx = windows.ctx();
  if (progress) progress({"perplexity", 0, windows.count(), ""});

  std::vector<WindowSum> sums;
  std::vector<double> losses;
  for (int64_t first = 0; first < windows.count(); first += windows.batch_size()) {
    const int64_t count = std::min(windows.batch_size(), windows.count() - first);
    const Tensor hidden = transformer.forward_hidden(windows.batch(first, count), ctx);
    for (int64_t index = first; index < first + count; ++index) {
      const int64_t n = windows.n_scored(index);
      losses.resize(static_cast<size_t>(n));
      token_losses(device, transformer, hidden.row_range((index - first + 1) * ctx - 1 - n, n),
                   windows.window(index).last(losses.size()), losses);
      const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
      if (!std::isfinite(sum)) {
        fail(ErrorCode::kNumeric,
             "perplexity: the loss of window {} is {}; damaged or overflowing weights?", index,
             sum);
      }
      sums.push_back({sum, n});
    }
    if (progress) {
      progress({"perplexity", first + count, windows.count(),
                fmt::format("perplexity {:.3f}", std::exp(estimate_mean(sums).mean))});
    }
  }

  const Estimate nll = estimate_mean(sums);
  PerplexityResult result;
  result.nll = nll.mean;
  result.perplexity = std::exp(nll.mean);
  result.nll_standard_error = nll.standard_error;
  result.windows = windows.count();
  result.tokens = windows.n_scored();
  result.ctx = ctx;
  result.stride = windows.stride();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace d2q
