// A complete Hugging Face model folder small enough to make in a test.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace d2q::test {

/// Writes a LLaMA of two blocks with random weights: hidden 64, intermediate 160, 4 heads, 2
/// key-value heads, a byte-level tokenizer of 257 tokens (one a byte, and the end of text), 512
/// positions.
void write_tiny_model(const std::filesystem::path& folder, uint64_t seed = 1);

/// The same shapes, predicting each byte of texts like `text` from the one before by its bigrams;
/// its MLPs' large contributions cancel exactly, which coarse rounding ends.
void write_fragile_model(const std::filesystem::path& folder, const std::string& text);

/// Readable text of at least `n_bytes` with little entropy, for calibration and evaluation.
std::string tiny_text(size_t n_bytes, uint64_t seed = 2);

}  // namespace d2q::test
