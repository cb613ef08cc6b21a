// A tokenizer.json as the metadata of a GGUF file.
#pragma once

#include <filesystem>

#include "format/gguf_writer.h"
#include "model/config.h"

namespace d2q {

/// Adds tokenizer.ggml.* of the tokenizer in `folder` (tokenizer.json and, where there are,
/// tokenizer_config.json and chat_template.jinja): byte-level BPE ("gpt2") or SentencePiece-style
/// BPE with byte fallback ("llama"). Ids up to config.vocab_size without a token become unused
/// ones. Throws Error{kUnsupported} on another tokenizer model or a pre-tokenizer that llama.cpp
/// has no name for.
void add_gguf_tokenizer(GgufWriter& writer, const std::filesystem::path& folder,
                        const ModelConfig& config);

}  // namespace d2q
