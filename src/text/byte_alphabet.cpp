#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace d2q {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kNoByte = -1;
constexpr int kAlphabetEnd = 0x144;  // 256 + the 68 bytes that do not stand for themselves

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, kAlphabetEnd> byte{};
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(kNoByte);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t character = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.character[static_cast<size_t>(byte)] = character;
    alphabet.byte[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.character[0x20] == 0x120 && kAlphabet.character[0xAD] == 0x143);

}  // namespace

char32_t alphabet_character(uint8_t byte) { return kAlphabet.character[byte]; }

std::optional<uint8_t> alphabet_byte(char32_t character) {
  if (character >= kAlphabetEnd || kAlphabet.byte[character] == kNoByte) return std::nullopt;
  return static_cast<uint8_t>(kAlphabet.byte[character]);
}

std::string to_alphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) append_utf8(out, alphabet_character(static_cast<uint8_t>(byte)));
  return out;
}

std::optional<std::string> from_alphabet(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_valid_utf8(text, at);
    const std::optional<uint8_t> byte = alphabet_byte(step.code_point);
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
    at += step.length;
  }
  return out;
}

}  // namespace d2q
