#include "text/chat_template.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"
#include "format/gguf.h"
#include "format/json_file.h"
#include "text/json_view.h"
#include "text/tokenizer_files.h"

namespace d2q {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

json read_optional(const std::filesystem::path& path) {
  return std::filesystem::is_regular_file(path) ? read_json_file(path) : json::object();
}

/// What tokenizer_config.json says, or would say for a GGUF file.
json tokenizer_config(const std::filesystem::path& model) {
  if (!std::filesystem::is_directory(model)) return gguf_tokenizer_config(GgufFile(model));
  return read_optional(model / "tokenizer_config.json");
}

/// Texts of the special tokens, which a file writes as "<s>" or {"content": "<s>", ...}.
ordered_json special_tokens(const std::filesystem::path& model, const json& config) {
  ordered_json tokens = ordered_json::object();
  const auto add = [&](const JsonView& source) {
    for (const char* name : kSpecialTokens) {
      const auto token = source.find(name);
      if (!token || tokens.contains(name)) continue;
      tokens[name] = token->value().is_object() ? token->string("content") : token->as_string();
    }
  };
  add(JsonView(config, (model / "tokenizer_config.json").string()));
  if (std::filesystem::is_directory(model)) {
    const std::filesystem::path map = model / "special_tokens_map.json";
    add(JsonView(read_optional(map), map.string()));
  }
  return tokens;
}

/// A template's source, or that of `variant` in [{"name": "default", "template": "..."}, ...].
std::optional<std::string> source_of(const JsonView& config, std::string_view variant) {
  const auto found = config.find("chat_template");
  if (!found) return std::nullopt;
  if (!found->value().is_array()) return found->as_string();
  std::optional<std::string> fallback;
  for (const JsonView& item : found->items()) {
    const std::string name = item.string("name");
    if (name == variant) return item.string("template");
    if (name == "default") fallback = item.string("template");
  }
  return fallback;
}

/// The messages without fields that are null: many templates handle a missing field and would print
/// "None" for one that is there. transformers drops them too.
ordered_json without_nulls(const ordered_json& messages) {
  if (!messages.is_array()) return messages;
  ordered_json kept = ordered_json::array();
  for (const ordered_json& message : messages) {
    if (!message.is_object()) {
      kept.push_back(message);
      continue;
    }
    ordered_json fields = ordered_json::object();
    for (const auto& [name, value] : message.items()) {
      if (!value.is_null()) fields[name] = value;
    }
    kept.push_back(std::move(fields));
  }
  return kept;
}

bool is_special(const Tokenizer& tokenizer, int32_t id) {
  return tokenizer.token_bytes(id, false).empty() && !tokenizer.token_bytes(id, true).empty();
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string name, ordered_json tokens)
    : template_(source, std::move(name)), special_tokens_(std::move(tokens)) {}

std::string ChatTemplate::render(const ordered_json& messages, const ChatOptions& options) const {
  ordered_json context = special_tokens_;
  context["messages"] = without_nulls(messages);
  context["tools"] = options.tools;
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  context.update(options.variables);
  jinja::RenderOptions render_options;
  render_options.now = options.now;
  return template_.render(context, render_options);
}

std::optional<ChatTemplateSource> find_chat_template(const std::filesystem::path& model,
                                                     std::string_view variant) {
  if (std::filesystem::is_directory(model)) {
    const std::filesystem::path file = model / "chat_template.jinja";
    if (std::filesystem::is_regular_file(file))
      return ChatTemplateSource{read_file(file, jinja::kMaxTemplateBytes), file.string()};
    const std::filesystem::path old_file = model / "chat_template.json";
    const json document = read_optional(old_file);
    if (auto source = source_of(JsonView(document, old_file.string()), variant))
      return ChatTemplateSource{*std::move(source), old_file.string()};
  }
  const json config = tokenizer_config(model);
  auto source = source_of(JsonView(config, model.string()), variant);
  if (!source) return std::nullopt;
  return ChatTemplateSource{*std::move(source), model.string() + " (chat template)"};
}

std::optional<ChatTemplate> load_chat_template(const std::filesystem::path& model,
                                               std::string_view variant) {
  auto source = find_chat_template(model, variant);
  if (!source) return std::nullopt;
  return ChatTemplate(source->text, std::move(source->name),
                      special_tokens(model, tokenizer_config(model)));
}

ChatTemplate load_chat_template_file(const std::filesystem::path& file,
                                     const std::filesystem::path& model) {
  return ChatTemplate(read_file(file, jinja::kMaxTemplateBytes), file.string(),
                      special_tokens(model, tokenizer_config(model)));
}

std::optional<int32_t> end_of_turn_token(const ChatTemplate& chat_template,
                                         const Tokenizer& tokenizer) {
  const std::string reply = "fine";
  const ordered_json messages = {{{"role", "user"}, {"content", "how?"}},
                                 {{"role", "assistant"}, {"content", reply}}};
  ChatOptions options;
  options.add_generation_prompt = false;
  std::string text;
  try {
    text = chat_template.render(messages, options);
  } catch (const Error&) {
    return std::nullopt;
  }
  const size_t at = text.rfind(reply);
  if (at == std::string::npos) return std::nullopt;
  const auto ids = tokenizer.encode(text.substr(at + reply.size()), /*add_special=*/false);
  // White space may stand between the reply and its end.
  for (const int32_t id : ids) {
    if (is_special(tokenizer, id)) return id;
    if (tokenizer.token_bytes(id).find_first_not_of(" \n") != std::string::npos) break;
  }
  return std::nullopt;
}

}  // namespace d2q
