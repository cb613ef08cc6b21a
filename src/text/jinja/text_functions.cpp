#include "text/jinja/text_functions.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/error.h"
#include "text/jinja/value.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q::jinja {
namespace {

template <typename Change>
std::string change_characters(std::string_view text, Change change) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    change(out, step.code_point);
    at += step.length;
  }
  return out;
}

void append_upper(std::string& out, char32_t c) {
  if (c == 0xDF) {  // sharp s, the only common letter whose upper case is two
    out += "SS";
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_lower(std::string& out, char32_t c) { append_utf8(out, lower_case(c)); }

bool in_set(char32_t c, std::optional<std::string_view> characters) {
  if (!characters) return is_python_space(c);
  std::string encoded;
  append_utf8(encoded, c);
  return characters->find(encoded) != std::string_view::npos;
}

void check_parts(const std::vector<std::string>& parts) {
  if (parts.size() >= kMaxElements) {
    fail(ErrorCode::kUnsupported, "a text falls into more than {} parts", kMaxElements);
  }
}

size_t space_end(std::string_view text, size_t at) {
  return text.size() - strip_left(text.substr(at)).size();
}

size_t word_end(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = next_utf8(text, at);
    if (is_python_space(step.code_point)) break;
    at += step.length;
  }
  return at;
}

}  // namespace

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string_view strip_left(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const Utf8Step step = next_utf8(text, 0);
    if (!in_set(step.code_point, characters)) break;
    text.remove_prefix(step.length);
  }
  return text;
}

std::string_view strip_right(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const Utf8Step step = previous_valid_utf8(text, text.size());
    if (!in_set(step.code_point, characters)) break;
    text.remove_suffix(step.length);
  }
  return text;
}

std::string_view strip(std::string_view text, std::optional<std::string_view> characters) {
  return strip_right(strip_left(text, characters), characters);
}

std::string upper(std::string_view text) { return change_characters(text, append_upper); }
std::string lower(std::string_view text) { return change_characters(text, append_lower); }

std::string capitalize(std::string_view text) {
  bool first = true;
  return change_characters(text, [&](std::string& out, char32_t c) {
    first ? append_upper(out, c) : append_lower(out, c);
    first = false;
  });
}

std::string title(std::string_view text, bool by_space) {
  bool inside = false;
  return change_characters(text, [&](std::string& out, char32_t c) {
    const bool breaks =
        by_space ? is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'
                 : !is_letter(c);
    inside ? append_lower(out, c) : append_upper(out, c);
    inside = !breaks;
  });
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count) {
  std::string out;
  size_t done = 0;
  const auto may_go_on = [&] { return count < 0 || count-- > 0; };
  if (from.empty()) {
    while (may_go_on()) {
      out += to;
      if (done == text.size()) return out;
      const size_t length = next_utf8(text, done).length;
      out += text.substr(done, length);
      done += length;
    }
    return out.append(text.substr(done));
  }
  for (size_t at = text.find(from); at != std::string_view::npos && may_go_on();
       at = text.find(from, done)) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t max_splits) {
  std::vector<std::string> parts;
  const auto may_split = [&] {
    check_parts(parts);
    return max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits;
  };
  if (separator) {
    size_t done = 0;
    for (size_t at = text.find(*separator); at != std::string_view::npos && may_split();
         at = text.find(*separator, done)) {
      parts.emplace_back(text.substr(done, at - done));
      done = at + separator->size();
    }
    parts.emplace_back(text.substr(done));
    return parts;
  }
  for (size_t at = space_end(text, 0); at < text.size();) {
    if (!may_split()) {
      parts.emplace_back(text.substr(at));
      break;
    }
    const size_t end = word_end(text, at);
    parts.emplace_back(text.substr(at, end - at));
    at = space_end(text, end);
  }
  return parts;
}

std::vector<std::string> split_from_right(std::string_view text,
                                          std::optional<std::string_view> separator,
                                          int64_t max_splits) {
  if (max_splits < 0) return split(text, separator, max_splits);
  std::vector<std::string> parts;
  const auto may_split = [&] {
    check_parts(parts);
    return static_cast<int64_t>(parts.size()) < max_splits;
  };
  if (separator) {
    for (size_t at = text.rfind(*separator); at != std::string_view::npos && may_split();
         at = text.rfind(*separator)) {
      parts.emplace_back(text.substr(at + separator->size()));
      text = text.substr(0, at);
    }
    parts.emplace_back(text);
  } else {
    text = strip_right(text);
    while (!text.empty() && may_split()) {
      size_t start = text.size();
      while (start > 0) {
        const Utf8Step step = previous_valid_utf8(text, start);
        if (is_python_space(step.code_point)) break;
        start -= step.length;
      }
      parts.emplace_back(text.substr(start));
      text = strip_right(text.substr(0, start));
    }
    if (!text.empty()) parts.emplace_back(text);
  }
  std::ranges::reverse(parts);
  return parts;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    const char32_t c = step.code_point;
    size_t end = at + step.length;
    const bool breaks = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                        c == 0x2028 || c == 0x2029;
    if (breaks) {
      check_parts(lines);
      if (c == '\r' && end < text.size() && text[end] == '\n') ++end;
      lines.emplace_back(text.substr(start, at - start));
      start = end;
    }
    at = end;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

size_t length(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += next_utf8(text, at).length;
  return at;
}

std::string reversed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t end = text.size(); end > 0;) {
    const size_t length = previous_valid_utf8(text, end).length;
    out += text.substr(end - length, length);
    end -= length;
  }
  return out;
}

}  // namespace d2q::jinja
