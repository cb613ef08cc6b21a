#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace d2q {

void validate(const SamplingOptions& options) {
  const auto invalid = [](const char* name, double value, const char* expected) {
    fail(ErrorCode::kInvalidArgument, "{}: {} is not {}", name, value, expected);
  };
  // Written as !(in range), so that NaN is refused too.
  if (!(options.temperature >= 0.0 && options.temperature <= 100.0)) {
    invalid("temperature", options.temperature, "between 0 and 100");
  }
  if (options.top_k < 0)
    invalid("top-k", static_cast<double>(options.top_k), "0 (all) or positive");
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    invalid("top-p", options.top_p, "above 0 and at most 1");
  }
  if (!(options.min_p >= 0.0 && options.min_p <= 1.0)) {
    invalid("min-p", options.min_p, "between 0 and 1");
  }
  if (!(options.repetition_penalty > 0.0 && options.repetition_penalty <= 100.0)) {
    invalid("repetition penalty", options.repetition_penalty, "above 0 and at most 100");
  }
  if (options.repetition_window < 0) {
    invalid("repetition window", static_cast<double>(options.repetition_window), "0 or positive");
  }
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), rng_(options.seed) {
  validate(options);
}

void Sampler::load(std::span<const float> logits, std::span<const int32_t> history) {
  candidates_.resize(logits.size());
  bool any_finite = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      fail(ErrorCode::kNumeric,
           "logits: the value of token {} is NaN; damaged or overflowing weights?", i);
    }
    any_finite = any_finite || std::isfinite(logits[i]);
    candidates_[i] = {static_cast<int32_t>(i), static_cast<double>(logits[i]), 0.0};
  }
  if (!any_finite)
    fail(ErrorCode::kNumeric, "logits: none of {} is finite; damaged weights?", logits.size());
  if (options_.repetition_penalty == 1.0) return;
  const size_t window = std::min(history.size(), static_cast<size_t>(options_.repetition_window));
  std::vector<int32_t> seen(history.end() - static_cast<ptrdiff_t>(window), history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const int32_t id : seen) {
    if (id < 0 || static_cast<size_t>(id) >= candidates_.size()) continue;
    double& logit = candidates_[static_cast<size_t>(id)].logit;
    logit = logit > 0.0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

void Sampler::keep_most_likely() {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  std::sort(candidates_.begin(), candidates_.end(), likelier);
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    candidates_.resize(static_cast<size_t>(options_.top_k));
  }
  const double best = candidates_.front().logit;
  double sum = 0.0;
  for (Candidate& candidate : candidates_) {
    candidate.probability = std::exp((candidate.logit - best) / options_.temperature);
    sum += candidate.probability;
  }
  double reached = 0.0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || reached < options_.top_p * sum)) {
    reached += candidates_[kept++].probability;
  }
  candidates_.resize(kept);
  // The best candidate's probability is exp(0) = 1 before the division by the sum.
  while (candidates_.size() > 1 && candidates_.back().probability < options_.min_p)
    candidates_.pop_back();
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  D2Q_CHECK(!logits.empty(), "no logits to sample from");
  load(logits, history);
  if (options_.temperature == 0.0) {
    const auto best =
        std::max_element(candidates_.begin(), candidates_.end(),
                         [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; });
    return best->id;
  }
  keep_most_likely();
  double sum = 0.0;
  for (const Candidate& candidate : candidates_) sum += candidate.probability;
  double left = rng_.uniform() * sum;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.probability;
    if (left < 0.0) return candidate.id;
  }
  return candidates_.back().id;  // rounding ate the last of the sum
}

}  // namespace d2q
