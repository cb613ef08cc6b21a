// Python's functions on text, which count in code points.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace d2q::jinja {

/// str.isspace() of one character.
bool is_python_space(char32_t c);

/// str.strip() and its halves; `characters` absent: white space.
std::string_view strip_left(std::string_view text,
                            std::optional<std::string_view> characters = std::nullopt);
std::string_view strip_right(std::string_view text,
                             std::optional<std::string_view> characters = std::nullopt);
std::string_view strip(std::string_view text,
                       std::optional<std::string_view> characters = std::nullopt);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
/// The first character in upper case, the rest in lower case.
std::string capitalize(std::string_view text);
/// capitalize() of every run of letters (str.title) or, with `by_space`, of every run between
/// spaces, hyphens and brackets (the filter).
std::string title(std::string_view text, bool by_space);

/// At most `count` replacements when it is not negative. `from` empty: between all characters.
std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count);

/// str.split(): on white space when `separator` is absent. At most `max_splits` when not negative.
/// `separator` is not empty. Throws Error{kUnsupported} beyond kMaxElements parts.
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t max_splits);
std::vector<std::string> split_from_right(std::string_view text,
                                          std::optional<std::string_view> separator,
                                          int64_t max_splits);
std::vector<std::string> split_lines(std::string_view text);

/// Code points.
size_t length(std::string_view text);
/// The byte at which code point `index` starts; text.size() when there is none.
size_t byte_offset(std::string_view text, size_t index);
std::string reversed(std::string_view text);

}  // namespace d2q::jinja
