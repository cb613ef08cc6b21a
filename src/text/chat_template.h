// A conversation in the form that a model was trained on.
#pragma once

#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/template.h"
#include "text/tokenizer.h"

namespace d2q {

struct ChatOptions {
  bool add_generation_prompt = true;  // end where the model's reply begins
  /// Functions that the model may call: JSON schemas, in the order given; null is none.
  nlohmann::ordered_json tools = nullptr;
  /// More variables of the template, e.g. {"enable_thinking": false}.
  nlohmann::ordered_json variables = nlohmann::ordered_json::object();
  std::optional<std::tm> now = {};  // absent: the local time
};

/// Immutable and thread-safe.
class ChatTemplate {
 public:
  /// `name` stands before every error. `special_tokens`: {"bos_token": "<s>", ...}; what is missing
  /// is undefined in the template. Throws as jinja::Template does.
  ChatTemplate(std::string_view source, std::string name, nlohmann::ordered_json special_tokens);

  /// The text of `messages`: a list of objects with role, content and what else the template reads;
  /// fields that are null count as absent.
  /// It is to be encoded without what the tokenizer puts around a text. Throws as
  /// jinja::Template::render does.
  std::string render(const nlohmann::ordered_json& messages, const ChatOptions& options) const;

 private:
  jinja::Template template_;
  nlohmann::ordered_json special_tokens_;
};

/// A template's text and, for messages, where it is from.
struct ChatTemplateSource {
  std::string text;
  std::string name;
};

/// The chat template of a model: chat_template.jinja, chat_template.json or tokenizer_config.json
/// of a folder, tokenizer.chat_template of a GGUF file; nullopt when it has none. Of several the
/// one named `variant`, or "default". Throws Error{kCorrupt} on files that contradict themselves.
std::optional<ChatTemplateSource> find_chat_template(const std::filesystem::path& model,
                                                     std::string_view variant = "default");

/// The same, ready to render.
std::optional<ChatTemplate> load_chat_template(const std::filesystem::path& model,
                                               std::string_view variant = "default");

/// A template from a file of the user's, with the model's special tokens.
ChatTemplate load_chat_template_file(const std::filesystem::path& file,
                                     const std::filesystem::path& model);

/// The special token that ends an assistant's turn, found by rendering one; nullopt when the
/// template puts none there or refuses such a conversation. A reply is over when the model says it,
/// whether or not the model's configuration lists it.
std::optional<int32_t> end_of_turn_token(const ChatTemplate& chat_template,
                                         const Tokenizer& tokenizer);

}  // namespace d2q
