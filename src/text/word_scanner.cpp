#include "text/word_scanner.h"

#include <array>
#include <cstdint>

#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

enum Class : uint8_t { kOther, kLetter, kNumber, kSpace, kNewline };

constexpr std::array<Class, 128> make_ascii_classes() {
  std::array<Class, 128> classes{};
  for (size_t c = 0; c < classes.size(); ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    classes[c] = letter                                   ? kLetter
                 : c >= '0' && c <= '9'                   ? kNumber
                 : c == '\r' || c == '\n'                 ? kNewline
                 : c == ' ' || (c >= '\t' && c <= '\x0D') ? kSpace
                                                          : kOther;
  }
  return classes;
}

constexpr std::array<Class, 128> kAsciiClasses = make_ascii_classes();

struct Character {
  Class kind = kOther;
  size_t length = 1;
};

Character character_at(std::string_view text, size_t at) {
  const auto byte = static_cast<uint8_t>(text[at]);
  if (byte < 0x80) return {kAsciiClasses[byte], 1};
  const Utf8Step step = next_valid_utf8(text, at);
  const char32_t c = step.code_point;
  const Class kind = is_letter(c)        ? kLetter
                     : is_number(c)      ? kNumber
                     : is_white_space(c) ? kSpace
                                         : kOther;
  return {kind, step.length};
}

/// The end of the run of characters of one class.
size_t run_end(std::string_view text, size_t at, Class kind) {
  while (at < text.size()) {
    const Character character = character_at(text, at);
    if (character.kind != kind) break;
    at += character.length;
  }
  return at;
}

bool is_space(Class kind) { return kind == kSpace || kind == kNewline; }

/// \s+(?!\S)|\s+ : white space but for the last character, which the next word may take.
size_t space_end(std::string_view text, size_t start) {
  size_t last = start;
  size_t at = start;
  while (at < text.size()) {
    const Character character = character_at(text, at);
    if (!is_space(character.kind)) return last > start ? last : at;
    last = at;
    at += character.length;
  }
  return at;
}

char lower_ascii(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

/// The length of a contraction behind the apostrophe at `at`, or 0.
size_t contraction_length(std::string_view text, size_t at, bool any_case) {
  const auto letter = [&](size_t i) {
    if (at + i >= text.size()) return '\0';
    return any_case ? lower_ascii(text[at + i]) : text[at + i];
  };
  const char first = letter(1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 1;
  const char second = letter(2);
  if (second == 'e' && (first == 'r' || first == 'v')) return 2;
  if (first == 'l' && second == 'l') return 2;
  // U+017F is an s that has no other case.
  return any_case && text.substr(at + 1).starts_with("\xC5\xBF") ? 2 : 0;
}

}  // namespace

std::optional<WordScanner> WordScanner::for_pattern(std::string_view pattern) {
  constexpr std::string_view kLlama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  constexpr std::string_view kQwen2 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  if (pattern == kGpt2Pattern) return WordScanner(0);
  if (pattern == kLlama3) return WordScanner(3);
  if (pattern == kQwen2) return WordScanner(1);
  return std::nullopt;
}

size_t WordScanner::word_end(std::string_view text, size_t start) const {
  return max_digits_ == 0 ? gpt2_end(text, start) : newer_end(text, start);
}

size_t WordScanner::gpt2_end(std::string_view text, size_t start) const {
  if (text[start] == '\'') {
    const size_t length = contraction_length(text, start, /*any_case=*/false);
    if (length > 0) return start + 1 + length;
  }
  size_t at = start;
  if (text[at] == ' ' && at + 1 < text.size()) ++at;
  const Character first = character_at(text, at);
  if (is_space(first.kind)) return space_end(text, start);
  return run_end(text, at + first.length, first.kind);
}

size_t WordScanner::newer_end(std::string_view text, size_t start) const {
  if (text[start] == '\'') {
    const size_t length = contraction_length(text, start, /*any_case=*/true);
    if (length > 0) return start + 1 + length;
  }
  const Character first = character_at(text, start);
  const size_t second_at = start + first.length;
  if (first.kind == kLetter) return run_end(text, second_at, kLetter);
  if (first.kind == kNumber) {
    size_t at = second_at;
    for (size_t n = 1; n < max_digits_ && at < text.size(); ++n) {
      const Character next = character_at(text, at);
      if (next.kind != kNumber) break;
      at += next.length;
    }
    return at;
  }
  const Character second =
      second_at < text.size() ? character_at(text, second_at) : Character{kNewline, 0};
  if (first.kind != kNewline && second.kind == kLetter) {
    return run_end(text, second_at + second.length, kLetter);
  }
  const bool space_then_other =
      text[start] == ' ' && second_at < text.size() && second.kind == kOther;
  if (first.kind == kOther || space_then_other) {
    const size_t from = space_then_other ? second_at + second.length : second_at;
    return run_end(text, run_end(text, from, kOther), kNewline);
  }
  // \s*[\r\n]+ ends behind the last line end of the white space.
  size_t after_newline = 0;
  for (size_t at = start; at < text.size();) {
    const Character next = character_at(text, at);
    if (!is_space(next.kind)) break;
    at += next.length;
    if (next.kind == kNewline) after_newline = at;
  }
  return after_newline > 0 ? after_newline : space_end(text, start);
}

}  // namespace d2q
