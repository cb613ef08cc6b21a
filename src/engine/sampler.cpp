#include "engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace d2q {
namespace {

// e^-40 is less than a double's rounding of a sum of probabilities over any vocabulary.
constexpr double kNegligibleExponent = -40.0;

bool likelier(float a_logit, int32_t a_id, float b_logit, int32_t b_id) {
  return a_logit != b_logit ? a_logit > b_logit : a_id < b_id;
}

/// The position of the largest logit, the first of equals.
size_t best_of(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      fail(ErrorCode::kNumeric,
           "logits: the value of token {} is NaN; damaged or overflowing weights?", i);
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (!std::isfinite(logits[best]))
    fail(ErrorCode::kNumeric, "logits: none of {} is finite; damaged weights?", logits.size());
  return best;
}

}  // namespace

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
  if (!(std::abs(options.frequency_penalty) <= 100.0)) {
    invalid("frequency penalty", options.frequency_penalty, "between -100 and 100");
  }
  if (!(std::abs(options.presence_penalty) <= 100.0)) {
    invalid("presence penalty", options.presence_penalty, "between -100 and 100");
  }
  if (options.repetition_window < 0) {
    invalid("repetition window", static_cast<double>(options.repetition_window), "0 or positive");
  }
  for (const auto& [id, bias] : options.logit_bias) {
    const bool forbids = std::isinf(bias) && bias < 0.0;
    if (id < 0) invalid("logit bias", id, "a token's id");
    if (!(std::abs(bias) <= 1e6) && !forbids) {
      invalid("logit bias", bias, "between -1e6 and 1e6, or -inf");
    }
  }
}

Sampler::Sampler(const SamplingOptions& options) : options_(options), rng_(options.seed) {
  validate(options);
}

std::span<const float> Sampler::adjusted(std::span<const float> logits,
                                         std::span<const int32_t> history) {
  const bool has_penalties = options_.repetition_penalty != 1.0 ||
                             options_.frequency_penalty != 0.0 || options_.presence_penalty != 0.0;
  if (options_.logit_bias.empty() && !has_penalties) return logits;
  logits_.assign(logits.begin(), logits.end());
  for (const auto& [id, bias] : options_.logit_bias) {
    if (static_cast<size_t>(id) >= logits_.size()) {
      fail(ErrorCode::kInvalidArgument, "logit bias: token {} is outside the vocabulary of {}", id,
           logits_.size());
    }
    logits_[static_cast<size_t>(id)] += static_cast<float>(bias);
  }
  if (has_penalties) penalise_seen(history);
  return logits_;
}

void Sampler::penalise_seen(std::span<const int32_t> history) {
  const size_t window = std::min(history.size(), static_cast<size_t>(options_.repetition_window));
  const auto recent = history.last(window);
  seen_.assign(recent.begin(), recent.end());
  std::ranges::sort(seen_);
  for (auto run = seen_.begin(); run != seen_.end();) {
    const int32_t id = *run;
    const auto end = std::find_if(run, seen_.end(), [&](int32_t other) { return other != id; });
    const auto count = static_cast<double>(end - run);
    run = end;
    if (id < 0 || static_cast<size_t>(id) >= logits_.size()) continue;
    double logit = logits_[static_cast<size_t>(id)];
    logit = logit > 0.0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    logit -= options_.frequency_penalty * count + options_.presence_penalty;
    logits_[static_cast<size_t>(id)] = static_cast<float>(logit);
  }
}

void Sampler::collect(std::span<const float> logits, float best) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    const double exponent =
        (static_cast<double>(logits[i]) - static_cast<double>(best)) / options_.temperature;
    if (exponent < kNegligibleExponent) continue;
    candidates_.push_back({static_cast<int32_t>(i), logits[i], std::exp(exponent)});
  }
}

void Sampler::keep_top_k() {
  const auto k = static_cast<size_t>(options_.top_k);
  if (k == 0 || k >= candidates_.size()) return;
  const auto before = [](const Candidate& a, const Candidate& b) {
    return likelier(a.logit, a.id, b.logit, b.id);
  };
  std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k),
                   candidates_.end(), before);
  candidates_.resize(k);
  // The order that the sums below run in must not depend on the selection.
  std::ranges::sort(candidates_, before);
}

double Sampler::total() const {
  double sum = 0.0;
  for (const Candidate& candidate : candidates_) sum += candidate.probability;
  return sum;
}

void Sampler::keep_top_p() {
  if (options_.top_p >= 1.0) return;
  const double wanted = options_.top_p * total();
  const auto before = [](const Candidate& a, const Candidate& b) {
    return likelier(a.logit, a.id, b.logit, b.id);
  };
  // Few tokens reach top_p as a rule, so the front is sorted in growing pieces.
  size_t sorted = 0;
  size_t kept = 0;
  for (double reached = 0.0; kept < candidates_.size() && (kept == 0 || reached < wanted);
       reached += candidates_[kept++].probability) {
    if (kept < sorted) continue;
    const size_t end = std::min(candidates_.size(), std::max<size_t>(64, 4 * sorted));
    std::partial_sort(candidates_.begin() + static_cast<ptrdiff_t>(sorted),
                      candidates_.begin() + static_cast<ptrdiff_t>(end), candidates_.end(), before);
    sorted = end;
  }
  candidates_.resize(kept);
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  D2Q_CHECK(!logits.empty(), "no logits to sample from");
  logits = adjusted(logits, history);
  const size_t best = best_of(logits);
  if (options_.temperature == 0.0) return static_cast<int32_t>(best);
  collect(logits, logits[best]);
  keep_top_k();
  keep_top_p();
  std::erase_if(candidates_,
                [&](const Candidate& candidate) { return candidate.probability < options_.min_p; });
  double left = rng_.uniform() * total();
  for (const Candidate& candidate : candidates_) {
    left -= candidate.probability;
    if (left < 0.0) return candidate.id;
  }
  return candidates_.back().id;  // rounding ate the last of the sum
}

LogProbabilities log_probabilities(std::span<const float> logits, int32_t chosen, int64_t n_best) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  D2Q_CHECK(chosen >= 0 && chosen < vocabulary && n_best >= 0 && n_best <= vocabulary,
            "token {} and the {} best of {}", chosen, n_best, vocabulary);
  const double best = static_cast<double>(logits[best_of(logits)]);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - best);
  const double log_sum = best + std::log(sum);
  LogProbabilities result;
  result.chosen = static_cast<double>(logits[static_cast<size_t>(chosen)]) - log_sum;
  if (n_best == 0) return result;
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  std::partial_sort(ids.begin(), ids.begin() + n_best, ids.end(), [&](int32_t a, int32_t b) {
    return likelier(logits[static_cast<size_t>(a)], a, logits[static_cast<size_t>(b)], b);
  });
  for (const int32_t id : std::span(ids).first(static_cast<size_t>(n_best))) {
    result.best.push_back({id, static_cast<double>(logits[static_cast<size_t>(id)]) - log_sum});
  }
  return result;
}

}  // namespace d2q
