#include "eval/divergence.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "eval/token_losses.h"

namespace d2q {
namespace {

/// Sums over the tokens so far, and the divergence of each.
struct Totals {
  std::vector<double> divergences;
  std::vector<WindowSum> window_divergences;
  std::vector<WindowSum> window_agreements;
  double losses = 0.0;
  double reference_losses = 0.0;
  double differences = 0.0;
  double squares = 0.0;

  void add(std::span<const LogitComparison> tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    WindowSum divergence{0.0, count};
    WindowSum agreement{0.0, count};
    for (const LogitComparison& token : tokens) {
      divergences.push_back(token.divergence);
      divergence.sum += token.divergence;
      agreement.sum += token.same_top ? 1.0 : 0.0;
      losses += token.loss;
      reference_losses += token.reference_loss;
      const double difference = std::exp(-token.loss) - std::exp(-token.reference_loss);
      differences += difference;
      squares += difference * difference;
    }
    window_divergences.push_back(divergence);
    window_agreements.push_back(agreement);
  }
};

void compare_rows(Device& device, Transformer& reference, Transformer& model,
                  const Tensor& reference_hidden, const Tensor& hidden,
                  std::span<const int32_t> targets, std::span<LogitComparison> results) {
  const int64_t vocab_size = model.config().vocab_size;
  const auto n_rows = static_cast<int64_t>(targets.size());
  const int64_t slice = std::min(head_slice_rows(vocab_size), n_rows);
  const Tensor expected = device.allocate(slice, vocab_size, DType::kF32);
  const Tensor found = device.allocate(slice, vocab_size, DType::kF32);
  for (int64_t begin = 0; begin < n_rows; begin += slice) {
    const int64_t count = std::min(slice, n_rows - begin);
    const auto offset = static_cast<size_t>(begin);
    const auto length = static_cast<size_t>(count);
    reference.head(reference_hidden.row_range(begin, count), expected.row_range(0, count));
    model.head(hidden.row_range(begin, count), found.row_range(0, count));
    device.compare_logits(expected.row_range(0, count), found.row_range(0, count),
                          targets.subspan(offset, length), results.subspan(offset, length));
  }
}

}  // namespace

DivergenceResult divergence(Device& device, Transformer& reference,
                            const Tokenizer& reference_tokenizer, Transformer& model,
                            const Tokenizer& tokenizer, std::string_view text,
                            const WindowOptions& options, const ProgressSink& progress) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t vocab_size = model.config().vocab_size;
  if (reference.config().vocab_size != vocab_size) {
    fail(ErrorCode::kInvalidArgument,
         "reference: its vocabulary of {} is not the model's of {}; are they the same model?",
         reference.config().vocab_size, vocab_size);
  }
  const TextWindows windows(tokenizer, text, vocab_size, options);
  if (TextWindows(reference_tokenizer, text, vocab_size, options) != windows) {
    fail(ErrorCode::kInvalidArgument,
         "reference: it tokenizes the text differently from the model; are they the same model?");
  }
  const int64_t ctx = windows.ctx();
  if (progress) progress({"divergence", 0, windows.count(), ""});

  Totals totals;
  std::vector<LogitComparison> tokens;
  for (int64_t first = 0; first < windows.count(); first += windows.batch_size()) {
    const int64_t count = std::min(windows.batch_size(), windows.count() - first);
    const auto batch = windows.batch(first, count);
    const Tensor reference_hidden = reference.forward_hidden(batch, ctx);
    const Tensor hidden = model.forward_hidden(batch, ctx);
    for (int64_t index = first; index < first + count; ++index) {
      const int64_t n = windows.n_scored(index);
      const int64_t row = (index - first + 1) * ctx - 1 - n;
      tokens.resize(static_cast<size_t>(n));
      compare_rows(device, reference, model, reference_hidden.row_range(row, n),
                   hidden.row_range(row, n), windows.window(index).last(tokens.size()), tokens);
      totals.add(tokens);
      if (!std::isfinite(totals.window_divergences.back().sum)) {
        fail(ErrorCode::kNumeric, "divergence: window {} gives {}; damaged or overflowing weights?",
             index, totals.window_divergences.back().sum);
      }
    }
    if (progress) {
      progress({"divergence", first + count, windows.count(),
                fmt::format("KLD {:.4f}", estimate_mean(totals.window_divergences).mean)});
    }
  }

  std::sort(totals.divergences.begin(), totals.divergences.end());
  const auto n_tokens = static_cast<double>(totals.divergences.size());
  DivergenceResult result;
  result.kld = estimate_mean(totals.window_divergences);
  result.median = quantile(totals.divergences, 0.5);
  result.percentile_99_9 = quantile(totals.divergences, 0.999);
  result.maximum = totals.divergences.back();
  result.top_agreement = estimate_mean(totals.window_agreements);
  result.rms_probability = std::sqrt(totals.squares / n_tokens);
  result.mean_probability = totals.differences / n_tokens;
  result.perplexity = std::exp(totals.losses / n_tokens);
  result.reference_perplexity = std::exp(totals.reference_losses / n_tokens);
  result.tokens = windows.n_scored();
  result.windows = windows.count();
  result.ctx = ctx;
  result.stride = windows.stride();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace d2q
