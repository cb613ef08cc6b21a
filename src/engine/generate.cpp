#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "engine/stop_filter.h"

namespace d2q {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Token bytes to shown text: whole characters, without stop texts.
class TextStream {
 public:
  TextStream(const GenerateOptions& options, const TextSink& sink, std::string& text)
      : filter_(options.stop_texts), sink_(sink), text_(text) {}

  void push(std::string_view bytes) { show(filter_.push(utf8_.push(bytes))); }
  void finish() {
    show(filter_.push(utf8_.finish()));
    show(filter_.finish());
  }
  bool stopped_by_text() const { return filter_.stopped(); }
  bool stopped_by_sink() const { return refused_; }

 private:
  void show(const std::string& piece) {
    if (piece.empty() || refused_) return;
    text_ += piece;
    if (sink_ && !sink_(piece)) refused_ = true;
  }

  Utf8Stream utf8_;
  StopFilter filter_;
  const TextSink& sink_;
  std::string& text_;
  bool refused_ = false;
};

// A prompt is fed in pieces of so many tokens, between which the work can be stopped.
constexpr size_t kPromptPiece = 512;

/// Feeds the prompt, reusing the longest prefix that the sequence holds already; at least the last
/// token is fed again, since its logits are needed. Empty when it was told to stop.
std::span<const float> feed_prompt(Sequence& sequence, std::span<const int32_t> prompt,
                                   const GenerateOptions& options, GenerateResult& result) {
  const auto start = std::chrono::steady_clock::now();
  const auto held = sequence.tokens();
  const auto reusable = prompt.first(prompt.size() - 1);
  const auto common =
      std::mismatch(reusable.begin(), reusable.end(), held.begin(), held.end()).first -
      reusable.begin();
  sequence.truncate(common);
  std::span<const float> logits;
  for (auto rest = prompt.subspan(static_cast<size_t>(common)); !rest.empty();) {
    const size_t n = std::min(kPromptPiece, rest.size());
    logits = sequence.append(rest.first(n));
    rest = rest.subspan(n);
    if (options.should_stop && options.should_stop()) logits = {};
    if (logits.empty()) break;
  }
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  result.reused_tokens = common;
  result.prompt_seconds = seconds_since(start);
  return logits;
}

}  // namespace

std::string_view to_string(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kStopToken:
      return "stop token";
    case StopReason::kStopText:
      return "stop text";
    case StopReason::kContextFull:
      return "context full";
    case StopReason::kCallback:
      return "interrupted";
  }
  return "";
}

GenerateResult generate(Sequence& sequence, const Tokenizer& tokenizer,
                        std::span<const int32_t> prompt, const GenerateOptions& options,
                        const TextSink& sink) {
  if (prompt.empty())
    fail(ErrorCode::kInvalidArgument, "prompt: it has no tokens; nothing to continue");
  if (static_cast<int64_t>(prompt.size()) >= sequence.capacity()) {
    fail(ErrorCode::kInvalidArgument, "prompt: {} tokens leave no room in a context of {}",
         prompt.size(), sequence.capacity());
  }
  Sampler sampler(options.sampling);
  GenerateResult result;
  TextStream stream(options, sink, result.text);
  auto logits = feed_prompt(sequence, prompt, options, result);
  if (logits.empty()) {
    result.reason = StopReason::kCallback;
    return result;
  }
  const auto start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    if (!result.tokens.empty()) {
      if (static_cast<int64_t>(sequence.tokens().size()) == sequence.capacity()) {
        result.reason = StopReason::kContextFull;
        break;
      }
      logits = sequence.append(std::span(&result.tokens.back(), 1));
    }
    const int32_t token = sampler.sample(logits, sequence.tokens());
    result.tokens.push_back(token);
    if (options.n_log_probabilities >= 0) {
      const auto vocabulary = static_cast<int64_t>(logits.size());
      result.log_probabilities.push_back(
          log_probabilities(logits, token, std::min(options.n_log_probabilities, vocabulary)));
    }
    if (std::ranges::find(options.stop_tokens, token) != options.stop_tokens.end()) {
      result.reason = StopReason::kStopToken;
      break;
    }
    stream.push(tokenizer.token_bytes(token));
    if (stream.stopped_by_text()) result.reason = StopReason::kStopText;
    const bool told_to_stop =
        stream.stopped_by_sink() || (options.should_stop && options.should_stop());
    if (told_to_stop) result.reason = StopReason::kCallback;
    if (stream.stopped_by_text() || told_to_stop) break;
  }
  stream.finish();
  result.generate_seconds = seconds_since(start);
  return result;
}

}  // namespace d2q
