// The tokenizer's files of a packed folder.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "format/gguf.h"

namespace d2q {

/// The tokenizer_config.json of a GGUF file: its special tokens' texts (null where it has none) and
/// its chat template.
nlohmann::json gguf_tokenizer_config(const GgufFile& file);

/// Copies the tokenizer files of an HF folder as they are (tokenizer.json, tokenizer_config.json,
/// chat template, ...), or makes tokenizer.json and tokenizer_config.json of the same tokenizer
/// from a GGUF file's metadata. Throws Error{kIo}, Error{kUnsupported} for a GGUF tokenizer that is
/// not known.
void write_tokenizer_files(const std::filesystem::path& model, const std::filesystem::path& folder);

}  // namespace d2q
