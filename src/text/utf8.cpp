#include "text/utf8.h"

#include <cstdint>
#include <cstring>

namespace d2q {
namespace {

constexpr uint64_t kHighBits = 0x8080808080808080u;

/// First position at or after `at` that is not inside a run of ASCII read eight bytes at a time.
size_t skip_ascii(std::string_view text, size_t at) {
  while (at + 8 <= text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & kHighBits) != 0) break;
    at += 8;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

Utf8Step next_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {Utf8Status::kValid, lead, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Status::kMalformed, kReplacementCharacter, 1};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // Bounds of the second byte (Unicode table 3-7): no overlong forms, surrogates, or > U+10FFFF.
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code_point = lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (at + i == text.size()) return {Utf8Status::kIncomplete, kReplacementCharacter, i};
    const uint8_t next = byte(at + i);
    if (next < low || next > high) return {Utf8Status::kMalformed, kReplacementCharacter, i};
    code_point = (code_point << 6) | (next & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Status::kValid, code_point, length};
}

Utf8Step next_valid_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  const char32_t lead = byte(at);
  if (lead < 0x80) return {Utf8Status::kValid, lead, 1};
  const auto tail = [&](size_t i) { return byte(at + i) & 0x3Fu; };
  if (lead < 0xE0) return {Utf8Status::kValid, ((lead & 0x1Fu) << 6) | tail(1), 2};
  if (lead < 0xF0) {
    return {Utf8Status::kValid, ((lead & 0x0Fu) << 12) | (tail(1) << 6) | tail(2), 3};
  }
  return {Utf8Status::kValid, ((lead & 0x07u) << 18) | (tail(1) << 12) | (tail(2) << 6) | tail(3),
          4};
}

Utf8Step previous_valid_utf8(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0u) == 0x80) --start;
  return next_valid_utf8(text, start);
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto push = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Utf8Step step = next_utf8(text, at);
    if (step.status != Utf8Status::kValid) return false;
    at += step.length;
  }
  return true;
}

std::string replace_malformed_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    if (step.status == Utf8Status::kValid) {
      out.append(text, at, step.length);
    } else {
      append_utf8(out, kReplacementCharacter);
    }
    at += step.length;
  }
  return out;
}

}  // namespace d2q
