#include "text/jinja/string_literal.h"

#include <charconv>

#include "text/utf8.h"

namespace d2q::jinja {
namespace {

std::optional<char> simple_escape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return std::nullopt;
  }
}

size_t hex_digits(char c) { return c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0; }

std::optional<uint32_t> parse_digits(std::string_view digits, int base) {
  uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

bool is_scalar_value(uint32_t c) { return c < 0xD800 || (c >= 0xE000 && c < 0x110000); }

}  // namespace

std::optional<std::string> unescape_string(std::string_view body) {
  std::string out;
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\' || i + 1 == body.size()) {
      out += body[i];
      continue;
    }
    const char c = body[++i];
    if (const std::optional<char> simple = simple_escape(c)) {
      out += *simple;
    } else if (c == '\n') {
      // A backslash at the end of a line joins it to the next.
    } else if (const size_t n_digits = hex_digits(c)) {
      if (i + n_digits >= body.size()) return std::nullopt;
      const auto value = parse_digits(body.substr(i + 1, n_digits), 16);
      if (!value || !is_scalar_value(*value)) return std::nullopt;
      append_utf8(out, *value);
      i += n_digits;
    } else if (c >= '0' && c <= '7') {
      size_t end = i;
      while (end < body.size() && end < i + 3 && body[end] >= '0' && body[end] <= '7') ++end;
      append_utf8(out, *parse_digits(body.substr(i, end - i), 8));
      i = end - 1;
    } else {
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace d2q::jinja
