// A conversation with a model: turns in, replies out, the model's cache kept between them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "engine/generate.h"
#include "text/chat_template.h"

namespace d2q {

/// Used from one thread. Sequence, tokenizer and template outlive it.
class ChatSession {
 public:
  /// `options`: how replies are made; the token that ends a turn is added to the stop tokens.
  /// `variables`: more variables of the template.
  ChatSession(Sequence& sequence, const Tokenizer& tokenizer, const ChatTemplate& chat_template,
              GenerateOptions options, nlohmann::ordered_json variables);

  /// Puts a system message first, in place of an earlier one; empty: removes it.
  void set_system(std::string_view text);
  /// Forgets all turns; the system message stays.
  void reset();
  /// The conversation so far: objects with role and content.
  const nlohmann::ordered_json& messages() const noexcept { return messages_; }
  /// Turns that reply() has dropped from the front because the context was too small for them.
  int64_t n_dropped() const noexcept { return n_dropped_; }

  /// The model's answer to `text`; both join the conversation, an answer that was stopped too. The
  /// oldest pairs of turns are dropped until prompt and answer fit. Throws what the template or
  /// generate() throws; the conversation is then as before.
  GenerateResult reply(std::string_view text, const TextSink& sink);

 private:
  std::vector<int32_t> fitting_prompt();

  Sequence& sequence_;
  const Tokenizer& tokenizer_;
  const ChatTemplate& template_;
  GenerateOptions options_;
  ChatOptions chat_options_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
  int64_t n_dropped_ = 0;
};

}  // namespace d2q
