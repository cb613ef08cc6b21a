// From a token's string in the vocabulary to the bytes that it stands for.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/json_view.h"

namespace d2q {

/// Immutable and thread-safe.
class TokenDecoder {
 public:
  /// ByteLevel.
  TokenDecoder() = default;
  /// ByteLevel, Metaspace, Replace (of strings), ByteFallback, Fuse, Strip and Sequence of them.
  /// Throws Error{kUnsupported} naming any other type.
  explicit TokenDecoder(const JsonView& json);

  /// The bytes of one token, wherever it stands.
  std::string bytes(std::string_view token) const;
  /// The text of tokens in a row, valid UTF-8: malformed parts become U+FFFD.
  std::string text(std::span<const std::string_view> tokens) const;

 private:
  void append(const JsonView& json);

  bool byte_level_ = true;
  bool byte_fallback_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::string first_mark_;  // Metaspace's: left out of the first token
  std::string strip_content_;
  size_t strip_start_ = 0;
  size_t strip_stop_ = 0;
};

}  // namespace d2q
