#include "eval/harness_text.h"

#include <utf8proc.h>

#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

bool is_space(char32_t code_point) {
  // Python counts the information separators too.
  return is_white_space(code_point) || (code_point >= 0x1c && code_point <= 0x1f);
}

/// "[...]" on one line, the shortest that closes, becomes nothing.
std::string remove_brackets(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    if (text[at] == '[') {
      const size_t end = text.find_first_of("]\n", at);
      if (end != std::string_view::npos && text[end] == ']') {
        at = end + 1;
        continue;
      }
    }
    result += text[at++];
  }
  return result;
}

}  // namespace

size_t trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const Utf8Step step = previous_valid_utf8(text, end);
    if (!is_space(step.code_point)) break;
    end -= step.length;
  }
  return text.size() - end;
}

std::string_view strip(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    const Utf8Step step = next_valid_utf8(text, begin);
    if (!is_space(step.code_point)) break;
    begin += step.length;
  }
  text.remove_prefix(begin);
  text.remove_suffix(trailing_space(text));
  return text;
}

std::string capitalize(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_valid_utf8(text, at);
    const auto code_point = static_cast<utf8proc_int32_t>(step.code_point);
    append_utf8(result, at == 0 ? static_cast<char32_t>(utf8proc_totitle(code_point))
                                : lower_case(step.code_point));
    at += step.length;
  }
  return result;
}

int64_t count_characters(std::string_view text) {
  int64_t n = 0;
  for (const char byte : text) n += (static_cast<unsigned char>(byte) & 0xc0u) != 0x80u ? 1 : 0;
  return n;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string_view::npos;) {
    result.append(text.substr(at, found - at)).append(to);
    at = found + from.size();
  }
  return result.append(text.substr(at));
}

std::string clean_hellaswag(std::string_view text) {
  return replace_all(remove_brackets(replace_all(strip(text), " [title]", ". ")), "  ", " ");
}

}  // namespace d2q
