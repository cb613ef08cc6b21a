#include "eval/sanity_gate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "eval/token_losses.h"
#include "kernels/host_copy.h"

namespace d2q {
namespace {

// Positions whose most likely token is looked at: a model that says one word says it everywhere.
constexpr int64_t kLookedAt = 64;

struct Behaviour {
  double nll = 0.0;  // mean of a token
  bool constant_output = false;
};

Behaviour observe(Device& device, std::shared_ptr<const WeightSource> source,
                  const std::vector<int32_t>& ids, int64_t ctx, DType products) {
  Transformer transformer(device, std::move(source), products, BlockResidency::kStreamed);
  const Tensor hidden = transformer.forward_hidden(ids, ctx);
  const auto n_windows = static_cast<int64_t>(ids.size()) / ctx;
  std::vector<double> losses(static_cast<size_t>(ctx - 1));
  double sum = 0.0;
  for (int64_t window = 0; window < n_windows; ++window) {
    const auto targets =
        std::span(ids).subspan(static_cast<size_t>(window * ctx + 1), losses.size());
    token_losses(device, transformer, hidden.row_range(window * ctx, ctx - 1), targets, losses);
    sum = std::accumulate(losses.begin(), losses.end(), sum);
  }
  const auto n_rows = static_cast<int64_t>(ids.size());
  std::vector<int32_t> rows;
  for (int64_t i = 0; i < std::min(kLookedAt, n_rows); ++i)
    rows.push_back(static_cast<int32_t>(i * n_rows / std::min(kLookedAt, n_rows)));
  const auto count = static_cast<int64_t>(rows.size());
  const Tensor looked_at = device.allocate(count, hidden.cols(), DType::kF32);
  device.embed(rows, hidden, looked_at);
  const Tensor logits = device.allocate(count, transformer.config().vocab_size, DType::kF32);
  transformer.head(looked_at, logits);
  const Matrix<float> values = to_host<float>(device, logits);
  const auto top = [&](int64_t row) {
    const float* first = values.data() + row * values.cols();
    return std::max_element(first, first + values.cols()) - first;
  };
  bool constant = count > 1;
  for (int64_t row = 1; row < count && constant; ++row) constant = top(row) == top(0);
  return {sum / static_cast<double>(n_windows * (ctx - 1)), constant};
}

std::string why_collapsed(const SanityResult& result) {
  if (!std::isfinite(result.perplexity))
    return fmt::format("its perplexity is {}", result.perplexity);
  if (result.constant_output) return "it predicts the same token everywhere";
  if (result.ratio > kCollapseRatio) {
    return fmt::format(
        "its perplexity of {:.4g} is {:.3g} times the original's {:.4g}, more than {}",
        result.perplexity, result.ratio, result.original_perplexity, kCollapseRatio);
  }
  return "";
}

}  // namespace

SanityResult check_sanity(Device& device, std::shared_ptr<const WeightSource> original,
                          std::shared_ptr<const WeightSource> result,
                          const std::vector<int32_t>& ids, int64_t ctx, DType products,
                          const ProgressSink& progress) {
  const auto start = std::chrono::steady_clock::now();
  D2Q_CHECK(ctx >= 2 && !ids.empty() && static_cast<int64_t>(ids.size()) % ctx == 0,
            "{} ids in windows of {}", ids.size(), ctx);
  const auto report = [&](int64_t done, const char* detail) {
    if (progress) progress({"check", done, 2, detail});
  };
  report(0, "the original");
  const Behaviour before = observe(device, std::move(original), ids, ctx, products);
  report(1, "the result");
  const Behaviour after = observe(device, std::move(result), ids, ctx, products);
  report(2, "");
  if (!std::isfinite(before.nll)) {
    fail(ErrorCode::kNumeric,
         "check: the original's loss is {}; damaged weights, or activations that overflow",
         before.nll);
  }
  SanityResult sanity;
  sanity.original_perplexity = std::exp(before.nll);
  sanity.perplexity = std::exp(after.nll);
  sanity.ratio = sanity.perplexity / sanity.original_perplexity;
  sanity.windows = static_cast<int64_t>(ids.size()) / ctx;
  sanity.tokens = sanity.windows * (ctx - 1);
  sanity.ctx = ctx;
  sanity.constant_output = after.constant_output && !before.constant_output;
  sanity.collapse = why_collapsed(sanity);
  sanity.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return sanity;
}

}  // namespace d2q
