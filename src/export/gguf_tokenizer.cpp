#include "export/gguf_tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "format/json_file.h"
#include "text/chat_template.h"
#include "text/tokenizer_gguf.h"

namespace d2q {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// tokenizer.ggml.token_type
enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

json optional_json(const fs::path& path) {
  return fs::exists(path) ? read_json_file(path) : json::object();
}

/// The text of a token in tokenizer_config.json: a string, or an object with "content".
std::string token_text(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  return found->is_object() ? found->value("content", "") : "";
}

class TokenizerMetadata {
 public:
  TokenizerMetadata(const fs::path& folder, const ModelConfig& config)
      : folder_(folder),
        subject_((folder / "tokenizer.json").string()),
        document_(read_json_file(folder / "tokenizer.json")),
        settings_(optional_json(folder / "tokenizer_config.json")),
        config_(config) {
    if (!document_.is_object() || !document_.contains("model") || !document_["model"].is_object())
      fail(ErrorCode::kCorrupt, "{}: no 'model'", subject_);
    const json& model = document_["model"];
    if (model.value("type", "BPE") != "BPE" || !model.contains("vocab") ||
        !model["vocab"].is_object()) {
      fail(ErrorCode::kUnsupported, "{}: tokenizer model '{}' has no GGUF form here, only BPE",
           subject_, model.value("type", "?"));
    }
    byte_fallback_ = model.value("byte_fallback", false);
    read_tokens();
  }

  void add_to(GgufWriter& writer) const {
    writer.add_string("tokenizer.ggml.model", byte_fallback_ ? "llama" : "gpt2");
    writer.add_string("tokenizer.ggml.pre", pre_tokenizer());
    writer.add_strings("tokenizer.ggml.tokens", tokens_);
    if (byte_fallback_) writer.add_f32s("tokenizer.ggml.scores", scores());
    writer.add_i32s("tokenizer.ggml.token_type", types_);
    if (!byte_fallback_) writer.add_strings("tokenizer.ggml.merges", merges());
    add_special(writer, "bos", token_text(settings_, "bos_token"), config_.bos_token);
    add_special(
        writer, "eos", token_text(settings_, "eos_token"),
        config_.eos_tokens.empty() ? std::nullopt : std::optional<int32_t>(config_.eos_tokens[0]));
    add_special(writer, "unknown", token_text(settings_, "unk_token"), std::nullopt);
    add_special(writer, "padding", token_text(settings_, "pad_token"), std::nullopt);
    const auto [begins, ends] = specials_around_text();
    writer.add_bool("tokenizer.ggml.add_bos_token", begins);
    writer.add_bool("tokenizer.ggml.add_eos_token", ends);
    if (byte_fallback_) writer.add_bool("tokenizer.ggml.add_space_prefix", prepends_space());
    add_chat_templates(writer);
  }

 private:
  void put(int64_t id, const std::string& text, int32_t type) {
    if (id < 0 || id >= config_.vocab_size) {
      fail(ErrorCode::kCorrupt, "{}: token '{}' has id {}, the model has {} tokens", subject_, text,
           id, config_.vocab_size);
    }
    tokens_[static_cast<size_t>(id)] = text;
    types_[static_cast<size_t>(id)] = type;
    ids_[text] = static_cast<int32_t>(id);
  }

  void read_tokens() {
    tokens_.resize(static_cast<size_t>(config_.vocab_size));
    types_.assign(tokens_.size(), kUnused);
    for (const auto& [text, id] : document_["model"]["vocab"].items()) {
      if (!id.is_number_integer()) fail(ErrorCode::kCorrupt, "{}: an id is no integer", subject_);
      const bool is_byte = byte_fallback_ && text.size() == 6 && text.starts_with("<0x");
      put(id.get<int64_t>(), text, is_byte ? kByte : kNormal);
    }
    for (const json& token : document_.value("added_tokens", json::array())) {
      if (!token.is_object()) fail(ErrorCode::kCorrupt, "{}: added token is no object", subject_);
      const std::string text = token.value("content", "");
      const bool is_unknown = byte_fallback_ && text == token_text(document_["model"], "unk_token");
      put(token.value("id", int64_t{-1}), text,
          is_unknown ? kUnknown : (token.value("special", false) ? kControl : kUserDefined));
    }
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] == kUnused) tokens_[id] = fmt::format("[PAD{}]", id);
    }
  }

  std::pair<std::string, std::string> merge_parts(const json& merge) const {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.empty() ? std::string::npos : text.find(' ', 1);
    if (space == std::string::npos)
      fail(ErrorCode::kCorrupt, "{}: a merge is not two tokens", subject_);
    return {text.substr(0, space), text.substr(space + 1)};
  }

  std::vector<std::string> merges() const {
    std::vector<std::string> result;
    for (const json& merge : document_["model"].value("merges", json::array())) {
      const auto [left, right] = merge_parts(merge);
      result.push_back(left + " " + right);
    }
    return result;
  }

  /// llama.cpp joins the pair whose result has the highest score: minus the rank of the first merge
  /// that makes the token gives the order of the merges.
  std::vector<float> scores() const {
    std::vector<float> result(tokens_.size(), 0.0f);
    float rank = 0.0f;
    std::vector<bool> seen(tokens_.size(), false);
    for (const json& merge : document_["model"].value("merges", json::array())) {
      const auto [left, right] = merge_parts(merge);
      rank += 1.0f;
      const auto found = ids_.find(left + right);
      if (found == ids_.end() || seen[static_cast<size_t>(found->second)]) continue;
      seen[static_cast<size_t>(found->second)] = true;
      result[static_cast<size_t>(found->second)] = -rank;
    }
    // Tokens that no merge makes are never the better choice.
    for (size_t id = 0; id < result.size(); ++id) {
      if (!seen[id] && types_[id] == kNormal) result[id] = -rank - 1.0f;
    }
    return result;
  }

  std::string pre_tokenizer() const {
    if (byte_fallback_) return "default";
    const json node = document_.value("pre_tokenizer", json(nullptr));
    const std::string name = gguf_pre_tokenizer_name(node);
    if (name.empty()) {
      fail(ErrorCode::kUnsupported,
           "{}: llama.cpp has no name that is known here for this pre-tokenizer", subject_);
    }
    return name;
  }

  void add_special(GgufWriter& writer, const char* role, const std::string& text,
                   std::optional<int32_t> fallback) const {
    const auto found = ids_.find(text);
    const auto id = found != ids_.end() ? std::optional<int32_t>(found->second) : fallback;
    if (!id) return;
    writer.add_u32(fmt::format("tokenizer.ggml.{}_token_id", role), static_cast<uint32_t>(*id));
  }

  /// Whether the post-processor puts special tokens before and behind a text.
  std::pair<bool, bool> specials_around_text() const {
    json post = document_.value("post_processor", json(nullptr));
    if (post.is_object() && post.value("type", "") == "Sequence") {
      for (const json& part : post.value("processors", json::array())) {
        if (part.is_object() && part.value("type", "") == "TemplateProcessing") {
          post = json(part);
          break;
        }
      }
    }
    if (!post.is_object() || post.value("type", "") != "TemplateProcessing") return {};
    const json single = post.value("single", json::array());
    if (!single.is_array() || single.empty()) return {};
    const auto is_special = [](const json& part) {
      return part.is_object() && part.contains("SpecialToken");
    };
    return {is_special(single.front()), is_special(single.back())};
  }

  bool prepends_space() const {
    const std::string normalizer = document_.value("normalizer", json(nullptr)).dump();
    const std::string splitter = document_.value("pre_tokenizer", json(nullptr)).dump();
    return normalizer.find("\"Prepend\"") != std::string::npos ||
           splitter.find("\"always\"") != std::string::npos ||
           splitter.find("\"first\"") != std::string::npos ||
           splitter.find("\"add_prefix_space\":true") != std::string::npos;
  }

  void add_chat_templates(GgufWriter& writer) const {
    const auto plain = find_chat_template(folder_);
    if (!plain) return;
    writer.add_string("tokenizer.chat_template", plain->text);
    const auto with_tools = find_chat_template(folder_, "tool_use");
    if (with_tools->text != plain->text)
      writer.add_string("tokenizer.chat_template.tool_use", with_tools->text);
  }

  fs::path folder_;
  std::string subject_;
  json document_;
  json settings_;
  const ModelConfig& config_;
  bool byte_fallback_ = false;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::unordered_map<std::string, int32_t> ids_;
};

}  // namespace

void add_gguf_tokenizer(GgufWriter& writer, const fs::path& folder, const ModelConfig& config) {
  try {
    TokenizerMetadata(folder, config).add_to(writer);
  } catch (const json::exception& error) {
    fail(ErrorCode::kCorrupt, "{}: {}; damaged file?", (folder / "tokenizer.json").string(),
         error.what());
  }
}

}  // namespace d2q
