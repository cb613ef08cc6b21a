// Log-likelihoods of many continuations of many contexts: what multiple-choice tasks are scored by.
// What the requests of a family share at their beginning runs once; sequences of similar length run
// together, padded at their ends, which a causal model's earlier positions do not see.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/progress.h"
#include "model/transformer.h"

namespace d2q {

struct ContinuationRequest {
  std::vector<int32_t> tokens;  // the context's, at least one, and then the continuation's
  int64_t n_scored = 0;         // the last so many are the continuation; 1 to tokens.size() - 1
  int64_t family = 0;           // requests that are likely to begin alike: an item's, a subject's
};

/// Σ log p(token | tokens before it) of each request's continuation, in nats. Throws
/// Error{kInvalidArgument} for an id outside the vocabulary and Error{kNumeric} when a loss is not
/// finite.
std::vector<double> score_continuations(Device& device, Transformer& transformer,
                                        std::span<const ContinuationRequest> requests,
                                        const ProgressSink& progress);

}  // namespace d2q
