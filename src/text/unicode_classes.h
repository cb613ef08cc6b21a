// Character classes as the reference tokenizers see them (Unicode 16; digits by Unicode 17, normal
// forms by Unicode 9). The system's PCRE2 and utf8proc know an older Unicode, so what was added
// since is listed here.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace d2q {

struct CodePointRange {
  char32_t first = 0;
  char32_t last = 0;  // inclusive
};

/// Characters that are in the general category or script `name` ("L", "Lu", "N", "Han", ...) of
/// Unicode 16 but not of Unicode 14; empty for any other name. Sorted.
std::span<const CodePointRange> unicode_additions(std::string_view name);

/// Unicode White_Space: \s.
bool is_white_space(char32_t code_point);
/// \p{L} and \p{N}.
bool is_letter(char32_t code_point);
bool is_number(char32_t code_point);
/// The Digits pre-tokenizer's notion of a digit: \p{N} of Unicode 17.
bool is_numeric(char32_t code_point);
/// ASCII punctuation and \p{P}, as the Punctuation pre-tokenizer sees it.
bool is_punctuation(char32_t code_point);
/// \w: alphabetic, mark, decimal number, connector punctuation, join control.
bool is_word_character(char32_t code_point);

/// Whether a normal form of the reference, whose tables are Unicode 9's, may change the character,
/// move it or join it with another. ASCII is not among them, although it joins with marks.
bool is_normalizing(char32_t code_point);

/// The simple lower case of Unicode 17, the character itself where it has none.
char32_t lower_case(char32_t code_point);

}  // namespace d2q
