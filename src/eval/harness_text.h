// The string operations of lm-evaluation-harness's task definitions, which are Python's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace d2q {

/// str.strip(): without the white space of any script around it.
std::string_view strip(std::string_view text);
/// Bytes of white space at the end.
size_t trailing_space(std::string_view text);
/// str.capitalize(): the first character in title case, the others in lower case.
std::string capitalize(std::string_view text);
/// len(): characters.
int64_t count_characters(std::string_view text);
/// Every `from`, in one pass from the left.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// What the harness does to HellaSwag's original text: bracketed marks of its WikiHow part go.
std::string clean_hellaswag(std::string_view text);

}  // namespace d2q
