// The one generate loop: prompt in, streamed text out.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/sequence.h"
#include "text/tokenizer.h"

namespace d2q {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 128;             // at least 0
  std::vector<int32_t> stop_tokens;     // e.g. ModelConfig::eos_tokens; not part of the text
  std::vector<std::string> stop_texts;  // the first one ends the text; not part of it
  /// With each token its log-probability and those of at most so many best tokens; negative: none.
  int64_t n_log_probabilities = -1;
  /// Asked between pieces of a long prompt and before each token; true ends the work.
  std::function<bool()> should_stop = nullptr;
};

enum class StopReason { kLength, kStopToken, kStopText, kContextFull, kCallback };

/// "length", "stop token", "stop text", "context full" or "interrupted".
std::string_view to_string(StopReason reason);

struct GenerateResult {
  std::string text;                                 // well-formed UTF-8
  std::vector<int32_t> tokens;                      // as sampled, a final stop token included
  std::vector<LogProbabilities> log_probabilities;  // of each token, where asked for
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt, that the sequence already held
  double prompt_seconds = 0.0;
  double generate_seconds = 0.0;  // of the tokens after the first
};

/// Called with each new piece of well-formed UTF-8 text; returns false to stop.
using TextSink = std::function<bool(std::string_view piece)>;

/// Continues `prompt`. What the sequence holds beyond the common prefix with the prompt is
/// forgotten, so that a chat's next turn reads only what is new. Throws Error{kInvalidArgument} for
/// an empty prompt or one that leaves no room in the sequence.
GenerateResult generate(Sequence& sequence, const Tokenizer& tokenizer,
                        std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TextSink& sink);

}  // namespace d2q
