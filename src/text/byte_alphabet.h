// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a
// vocabulary file holds any byte string as text. Printable Latin-1 stands for itself; the other
// bytes take U+0100, U+0101, ... in order (a space is U+0120).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace d2q {

char32_t alphabet_character(uint8_t byte);

/// The byte that a character stands for, or nullopt for a character outside the alphabet.
std::optional<uint8_t> alphabet_byte(char32_t character);

std::string to_alphabet(std::string_view bytes);

/// nullopt when a character of `text` (valid UTF-8) is outside the alphabet.
std::optional<std::string> from_alphabet(std::string_view text);

}  // namespace d2q
