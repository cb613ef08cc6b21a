#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "base/error.h"

namespace d2q {
namespace {

// Tokens that go through the blocks together: enough rows to keep dense products at full speed.
constexpr int64_t kBatchTokens = 4096;
// The head runs in slices of at most this many logits (64 MiB), however long the window.
constexpr int64_t kHeadSliceLogits = int64_t{1} << 24;

void check_options(const PerplexityOptions& options) {
  if (options.ctx < 2)
    fail(ErrorCode::kInvalidArgument, "ctx: {} is not at least 2 tokens", options.ctx);
  if (options.max_windows < 0 || options.limit_bytes < 0) {
    fail(ErrorCode::kInvalidArgument,
         "windows and limit-bytes: {} and {} must be 0 (all) or positive", options.max_windows,
         options.limit_bytes);
  }
}

std::string_view first_bytes(std::string_view text, int64_t limit) {
  if (limit == 0 || static_cast<uint64_t>(limit) >= text.size()) return text;
  auto end = static_cast<size_t>(limit);
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  return text.substr(0, end);
}

std::vector<int32_t> tokenize(const Tokenizer& tokenizer, std::string_view text, int64_t vocab_size,
                              int64_t ctx) {
  if (text.empty()) fail(ErrorCode::kInvalidArgument, "text: it is empty; nothing to score");
  auto ids = tokenizer.encode(text, /*add_special=*/false);
  if (static_cast<int64_t>(ids.size()) < ctx) {
    fail(ErrorCode::kInvalidArgument,
         "text: {} tokens are fewer than one window of {}; give a longer text or a smaller ctx",
         ids.size(), ctx);
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorCode::kCorrupt,
           "tokenizer: id {} is outside the model's vocabulary of {}; mixed-up files?", id,
           vocab_size);
    }
  }
  return ids;
}

/// Losses of the tokens that follow `hidden`'s rows, in slices of the head.
void score(Device& device, Transformer& transformer, const Tensor& hidden,
           std::span<const int32_t> targets, std::span<double> losses) {
  const int64_t vocab_size = transformer.config().vocab_size;
  const int64_t slice = std::clamp<int64_t>(kHeadSliceLogits / vocab_size, 16, 1024);
  const int64_t n_rows = static_cast<int64_t>(targets.size());
  const Tensor logits = device.allocate(std::min(slice, n_rows), vocab_size, DType::kF32);
  for (int64_t begin = 0; begin < n_rows; begin += slice) {
    const int64_t count = std::min(slice, n_rows - begin);
    const Tensor part = logits.row_range(0, count);
    transformer.head(hidden.row_range(begin, count), part);
    const auto offset = static_cast<size_t>(begin);
    const auto length = static_cast<size_t>(count);
    device.cross_entropy(part, targets.subspan(offset, length), losses.subspan(offset, length));
  }
}

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::optional<double> standard_error(std::span<const double> values) {
  if (values.size() < 2) return std::nullopt;
  const double center = mean(values);
  double squares = 0.0;
  for (const double value : values) squares += (value - center) * (value - center);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(squares / (n - 1.0) / n);
}

}  // namespace

PerplexityResult perplexity(Device& device, Transformer& transformer, const Tokenizer& tokenizer,
                            std::string_view text, const PerplexityOptions& options,
                            const ProgressSink& progress) {
  check_options(options);
  const auto start = std::chrono::steady_clock::now();
  const int64_t ctx = options.ctx;
  const auto ids = tokenize(tokenizer, first_bytes(text, options.limit_bytes),
                            transformer.config().vocab_size, ctx);
  int64_t n_windows = static_cast<int64_t>(ids.size()) / ctx;
  if (options.max_windows > 0) n_windows = std::min(n_windows, options.max_windows);
  const int64_t batch_windows = std::max<int64_t>(1, kBatchTokens / ctx);
  const auto window = static_cast<size_t>(ctx);

  if (progress) progress({"perplexity", 0, n_windows, ""});

  std::vector<double> window_losses;  // a window's mean
  std::vector<double> losses(window - 1);
  while (static_cast<int64_t>(window_losses.size()) < n_windows) {
    const int64_t first = static_cast<int64_t>(window_losses.size());
    const int64_t count = std::min(batch_windows, n_windows - first);
    const auto batch = std::span(ids).subspan(static_cast<size_t>(first) * window,
                                              static_cast<size_t>(count) * window);
    const Tensor hidden = transformer.forward_hidden(batch, ctx);
    for (int64_t w = 0; w < count; ++w) {
      const auto targets = batch.subspan(static_cast<size_t>(w) * window + 1, window - 1);
      score(device, transformer, hidden.row_range(w * ctx, ctx - 1), targets, losses);
      const double loss = mean(losses);
      if (!std::isfinite(loss)) {
        fail(ErrorCode::kNumeric,
             "perplexity: the loss of window {} is {}; damaged or overflowing weights?", first + w,
             loss);
      }
      window_losses.push_back(loss);
    }
    if (progress) {
      progress({"perplexity", first + count, n_windows,
                fmt::format("perplexity {:.3f}", std::exp(mean(window_losses)))});
    }
  }

  PerplexityResult result;
  result.nll = mean(window_losses);
  result.perplexity = std::exp(result.nll);
  result.nll_standard_error = standard_error(window_losses);
  result.windows = n_windows;
  result.tokens = n_windows * (ctx - 1);
  result.ctx = ctx;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace d2q
