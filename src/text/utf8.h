// UTF-8 in small steps. Malformed bytes are counted as Unicode recommends ("maximal subparts"), the
// way Python's errors='replace', Rust's from_utf8_lossy and WHATWG decoders do.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace d2q {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

enum class Utf8Status {
  kValid,
  kMalformed,   // `length` bytes stand for one U+FFFD
  kIncomplete,  // the text ends inside a character that more bytes could still complete
};

struct Utf8Step {
  Utf8Status status = Utf8Status::kValid;
  char32_t code_point = 0;
  size_t length = 0;  // bytes; >= 1
};

/// Reads one character at `at` < text.size().
Utf8Step next_utf8(std::string_view text, size_t at);

/// Reads one character of text that is known to be valid.
Utf8Step next_valid_utf8(std::string_view text, size_t at);

/// The character that ends at `end` > 0 of valid text.
Utf8Step previous_valid_utf8(std::string_view text, size_t end);

void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);

/// Every malformed part becomes U+FFFD.
std::string replace_malformed_utf8(std::string_view text);

}  // namespace d2q
