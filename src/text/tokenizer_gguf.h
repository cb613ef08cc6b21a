// GGUF keeps a tokenizer as lists: tokens with merges and the name of a pre-tokenizer ("gpt2"), or
// tokens with scores ("llama"); here it becomes the tokenizer.json that says the same, so that
// there is one reader for all.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "format/gguf.h"

namespace d2q {

/// The document of an equivalent tokenizer.json. Throws Error{kUnsupported} on a tokenizer model
/// other than these two or an unknown pre-tokenizer name, Error{kNotFound} when the file has no
/// tokenizer, Error{kCorrupt} on lists that contradict each other.
nlohmann::json gguf_tokenizer_json(const GgufFile& file);

/// The name that GGUF files have for the "pre_tokenizer" of a tokenizer.json of byte-level BPE, or
/// "" when none of the known ones says the same.
std::string gguf_pre_tokenizer_name(const nlohmann::json& pre_tokenizer);

}  // namespace d2q
