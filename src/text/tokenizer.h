// Text to token ids and back, exactly as the model's own tokenizer does it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace d2q {

/// Immutable and thread-safe after loading.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int32_t vocab_size() const = 0;
  /// Ids of `text`, any bytes (malformed UTF-8 included). `add_special`: apply the post-processor's
  /// template (BOS and the like). Added tokens in the text are recognised.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special) const = 0;
  /// The bytes that a token stands for; special tokens give their text when `special` is true, else
  /// "".
  virtual std::string token_bytes(int32_t id, bool special = false) const = 0;
  virtual std::string decode(std::span<const int32_t> ids, bool special = false) const = 0;
  virtual std::optional<int32_t> find_token(std::string_view text) const = 0;
};

/// From an HF or d2quant folder (tokenizer.json) or a GGUF file.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model);

/// Turns a stream of token bytes into whole UTF-8 characters: holds back an incomplete tail.
class Utf8Stream {
 public:
  /// The complete characters so far; malformed bytes become U+FFFD.
  std::string push(std::string_view bytes);
  /// What is left at the end, malformed bytes as U+FFFD.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace d2q
