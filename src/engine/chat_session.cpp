#include "engine/chat_session.h"

#include <algorithm>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q {
namespace {

nlohmann::ordered_json message(const char* role, std::string_view content) {
  return {{"role", role}, {"content", replace_malformed_utf8(content)}};
}

bool has_system(const nlohmann::ordered_json& messages) {
  return !messages.empty() && messages.front().at("role") == "system";
}

}  // namespace

ChatSession::ChatSession(Sequence& sequence, const Tokenizer& tokenizer,
                         const ChatTemplate& chat_template, GenerateOptions options,
                         nlohmann::ordered_json variables)
    : sequence_(sequence),
      tokenizer_(tokenizer),
      template_(chat_template),
      options_(std::move(options)) {
  chat_options_.variables = std::move(variables);
  if (const auto end = end_of_turn_token(template_, tokenizer_)) {
    options_.stop_tokens.push_back(*end);
  }
}

void ChatSession::set_system(std::string_view text) {
  if (has_system(messages_)) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), message("system", text));
}

void ChatSession::reset() {
  while (messages_.size() > (has_system(messages_) ? 1u : 0u))
    messages_.erase(messages_.size() - 1);
}

std::vector<int32_t> ChatSession::fitting_prompt() {
  const int64_t room = sequence_.capacity();
  const int64_t reserved = std::min(options_.max_tokens, room / 4);
  while (true) {
    auto prompt = tokenizer_.encode(template_.render(messages_, chat_options_), false);
    if (static_cast<int64_t>(prompt.size()) + std::max<int64_t>(reserved, 1) <= room) return prompt;
    const ptrdiff_t first = has_system(messages_) ? 1 : 0;
    if (static_cast<ptrdiff_t>(messages_.size()) < first + 3) {
      fail(ErrorCode::kInvalidArgument,
           "this turn makes a prompt of {} tokens, which leaves no room in a context of {}; see "
           "--ctx",
           prompt.size(), room);
    }
    messages_.erase(messages_.begin() + first, messages_.begin() + first + 2);
    n_dropped_ += 2;
  }
}

GenerateResult ChatSession::reply(std::string_view text, const TextSink& sink) {
  nlohmann::ordered_json before = messages_;
  const int64_t dropped_before = n_dropped_;
  try {
    messages_.push_back(message("user", text));
    const std::vector<int32_t> prompt = fitting_prompt();
    GenerateResult result = generate(sequence_, tokenizer_, prompt, options_, sink);
    messages_.push_back(message("assistant", result.text));
    return result;
  } catch (...) {
    messages_ = std::move(before);
    n_dropped_ = dropped_before;
    throw;
  }
}

}  // namespace d2q
