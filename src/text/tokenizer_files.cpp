#include "text/tokenizer_files.h"

#include <array>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file_io.h"
#include "format/gguf.h"
#include "text/tokenizer_gguf.h"

namespace d2q {
namespace {

constexpr const char* kTokenizerJson = "tokenizer.json";
constexpr const char* kTokenizerConfig = "tokenizer_config.json";
constexpr std::array kOptionalFiles = {kTokenizerConfig,
                                       "special_tokens_map.json",
                                       "added_tokens.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "tokenizer.model",
                                       "generation_config.json"};
constexpr uint64_t kMaxTokenizerFileBytes = uint64_t{64} << 20;

void copy_into(const std::filesystem::path& from, const std::filesystem::path& folder) {
  write_file_atomically(folder / from.filename(), read_file(from, kMaxTokenizerFileBytes));
}

/// The text of the token whose id is at `key`, or null.
nlohmann::json token_at(const GgufFile& file, const std::string& key) {
  const auto id = file.integer(key);
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  if (!id || !tokens || *id < 0 || *id >= static_cast<int64_t>(tokens->size())) return nullptr;
  return (*tokens)[static_cast<size_t>(*id)];
}

/// The bytes of a document; text of a GGUF that is not UTF-8 cannot be JSON.
std::string dump(const nlohmann::json& document, const std::string& source, int indent) {
  try {
    return document.dump(indent) + "\n";
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::kCorrupt, "{}: tokenizer metadata is not valid UTF-8 ({})", source,
         error.what());
  }
}

}  // namespace

nlohmann::json gguf_tokenizer_config(const GgufFile& file) {
  nlohmann::json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},
      {"clean_up_tokenization_spaces", false},
      {"bos_token", token_at(file, "tokenizer.ggml.bos_token_id")},
      {"eos_token", token_at(file, "tokenizer.ggml.eos_token_id")},
      {"pad_token", token_at(file, "tokenizer.ggml.padding_token_id")},
      {"unk_token", token_at(file, "tokenizer.ggml.unknown_token_id")},
  };
  const auto chat_template = file.string("tokenizer.chat_template");
  const auto with_tools = file.string("tokenizer.chat_template.tool_use");
  if (chat_template && with_tools) {
    config["chat_template"] = {{{"name", "default"}, {"template", *chat_template}},
                               {{"name", "tool_use"}, {"template", *with_tools}}};
  } else if (chat_template) {
    config["chat_template"] = *chat_template;
  }
  return config;
}

void write_tokenizer_files(const std::filesystem::path& model,
                           const std::filesystem::path& folder) {
  if (std::filesystem::is_directory(model)) {
    copy_into(model / kTokenizerJson, folder);
    for (const char* name : kOptionalFiles) {
      if (std::filesystem::is_regular_file(model / name)) copy_into(model / name, folder);
    }
    return;
  }
  const GgufFile file(model);
  const std::string source = model.string();
  write_file_atomically(folder / kTokenizerJson, dump(gguf_tokenizer_json(file), source, -1));
  write_file_atomically(folder / kTokenizerConfig, dump(gguf_tokenizer_config(file), source, 2));
}

}  // namespace d2q
