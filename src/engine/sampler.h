// Choosing the next token from the model's logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"

namespace d2q {

/// The filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p. A
/// filter's neutral value switches it off.
struct SamplingOptions {
  double temperature = 0.8;  // 0 = greedy: the most likely token, the lower id on a tie
  int64_t top_k = 0;         // keep the k most likely tokens; 0 = all
  double top_p = 0.95;       // keep the fewest tokens whose probabilities reach top_p; 1 = all
  double min_p = 0.0;        // keep tokens with at least min_p times the best one's probability
  double repetition_penalty =
      1.0;  // divides a seen token's positive logit, multiplies a negative one
  int64_t repetition_window = 64;  // how many of the last tokens count as seen
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
  /// included. Throws Error{kNumeric} when a logit is NaN or none is finite. O(vocab_size log
  /// vocab_size).
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  struct Candidate {
    int32_t id;
    double logit;
    double probability;
  };
  void load(std::span<const float> logits, std::span<const int32_t> history);
  void keep_most_likely();

  SamplingOptions options_;
  Rng rng_;
  std::vector<Candidate> candidates_;  // kept between calls for its capacity only
};

}  // namespace d2q
