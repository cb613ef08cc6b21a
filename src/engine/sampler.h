// Choosing the next token from the model's logits.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/rng.h"

namespace d2q {

/// The steps apply in this order: logit bias, repetition penalty, frequency and presence penalties,
/// temperature, top-k, top-p, min-p. A step's neutral value switches it off.
struct SamplingOptions {
  double temperature = 0.8;  // 0 = greedy: the most likely token, the lower id on a tie
  int64_t top_k = 0;         // keep the k most likely tokens; 0 = all
  double top_p = 0.95;       // keep the fewest tokens whose probabilities reach top_p; 1 = all
  double min_p = 0.0;        // keep tokens with at least min_p times the best one's probability
  double repetition_penalty =
      1.0;  // divides a seen token's positive logit, multiplies a negative one
  double frequency_penalty = 0.0;  // subtracted from a logit for each time the token was seen
  double presence_penalty = 0.0;   // subtracted from a logit once when the token was seen
  int64_t repetition_window = 64;  // how many of the last tokens count as seen
  std::vector<std::pair<int32_t, double>> logit_bias = {};  // added; -infinity forbids a token
  uint64_t seed = 0;
};

/// Throws Error{kInvalidArgument} naming the option that is out of its range.
void validate(const SamplingOptions& options);

/// A sampler with its own random numbers: the same options and logits give the same tokens on every
/// machine. Not thread-safe.
class Sampler {
 public:
  /// Throws as validate() does.
  explicit Sampler(const SamplingOptions& options);

  /// The next token. logits: [vocab_size], at least one; history: the tokens so far, prompt
  /// included. Tokens that are less likely than the best by more than e^40 are never drawn. Throws
  /// Error{kNumeric} when a logit is NaN or none is finite, Error{kInvalidArgument} for a biased
  /// token outside the vocabulary. O(vocab_size), and what top-p keeps is sorted; no allocation
  /// after the first call.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  struct Candidate {
    int32_t id;
    float logit;
    double probability;  // relative to the best one's
  };
  std::span<const float> adjusted(std::span<const float> logits, std::span<const int32_t> history);
  void penalise_seen(std::span<const int32_t> history);
  void collect(std::span<const float> logits, float best);
  void keep_top_k();
  void keep_top_p();
  double total() const;

  SamplingOptions options_;
  Rng rng_;
  // Kept between calls for their capacity only.
  std::vector<Candidate> candidates_;
  std::vector<float> logits_;
  std::vector<int32_t> seen_;
};

struct TokenLogProbability {
  int32_t id = 0;
  double log_probability = 0.0;  // natural
};

/// What the model itself thinks of a token: log-softmax of the logits as they came, before any of
/// the sampler's steps.
struct LogProbabilities {
  double chosen = 0.0;
  std::vector<TokenLogProbability> best;  // the most likely tokens, best first
};

/// chosen: a token of the vocabulary; n_best: at most the vocabulary. O(vocab_size).
LogProbabilities log_probabilities(std::span<const float> logits, int32_t chosen, int64_t n_best);

}  // namespace d2q
