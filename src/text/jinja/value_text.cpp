#include "text/jinja/value_text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q::jinja {
namespace {

/// The shortest digits that read back the same; a whole number keeps ".0".
std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

std::string escape(char32_t c) {
  const auto value = static_cast<uint32_t>(c);
  if (c < 0x100) return fmt::format("\\x{:02x}", value);
  return c < 0x10000 ? fmt::format("\\u{:04x}", value) : fmt::format("\\U{:08x}", value);
}

std::string quote(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char mark = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, mark);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    const char32_t c = step.code_point;
    if (c == static_cast<char32_t>(mark) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else {
      out += escape(c);
    }
    at += step.length;
  }
  return out + mark;
}

std::string list_repr(const List& list) {
  std::string out = list.is_tuple ? "(" : "[";
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out += ", ";
    out += to_repr(list.items[i]);
  }
  if (list.is_tuple && list.items.size() == 1) out += ',';
  return out + (list.is_tuple ? ')' : ']');
}

std::string dict_repr(const Dict& dict) {
  std::string out = "{";
  for (const auto& [key, value] : dict.entries()) {
    if (out.size() > 1) out += ", ";
    out += quote(key) + ": " + to_repr(value);
  }
  return out + "}";
}

std::string json_string(const std::string& text, bool ensure_ascii) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    const auto c = static_cast<uint32_t>(step.code_point);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f') {
      out += '\\';
      out += c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f';
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      out += fmt::format("\\u{:04x}", c);
    } else if (ensure_ascii && c >= 0x10000) {
      const uint32_t rest = c - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      append_utf8(out, step.code_point);
    }
    at += step.length;
  }
  return out + "\"";
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  std::string write(const Value& value) {
    append(value, 0);
    return std::move(out_);
  }

 private:
  void append(const Value& value, int64_t level) {
    using Kind = Value::Kind;
    switch (value.kind()) {
      case Kind::kNone:
        out_ += "null";
        return;
      case Kind::kBoolean:
        out_ += value.as_boolean() ? "true" : "false";
        return;
      case Kind::kInteger:
        out_ += fmt::format("{}", value.as_integer());
        return;
      case Kind::kFloat:
        append_float(value.as_number());
        return;
      case Kind::kText:
        out_ += json_string(value.as_text(), style_.ensure_ascii);
        return;
      case Kind::kList:
        append_items(value.as_list().items, '[', ']', level,
                     [&](const Value& item) { append(item, level + 1); });
        return;
      case Kind::kDict: {
        auto entries = value.as_dict().entries();
        if (style_.sort_keys) {
          std::ranges::sort(entries, {}, [](const Dict::Entry& entry) { return entry.first; });
        }
        append_items(entries, '{', '}', level, [&](const Dict::Entry& entry) {
          out_ += json_string(entry.first, style_.ensure_ascii) + style_.key_separator;
          append(entry.second, level + 1);
        });
        return;
      }
      default:
        fail(ErrorCode::kInvalidArgument, "JSON has no form for {}", value.type_name());
    }
  }

  void append_float(double value) {
    if (std::isfinite(value)) {
      out_ += float_text(value);
    } else {
      out_ += std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity";
    }
  }

  template <typename Items, typename Append>
  void append_items(const Items& items, char open, char close, int64_t level, Append append_one) {
    out_ += open;
    bool first = true;
    for (const auto& item : items) {
      if (!first) out_ += style_.item_separator;
      first = false;
      new_line(level + 1);
      append_one(item);
    }
    if (!items.empty()) new_line(level);
    out_ += close;
  }

  void new_line(int64_t level) {
    if (!style_.indent) return;
    out_ += '\n';
    out_.append(static_cast<size_t>(*style_.indent * level), ' ');
  }

  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

std::string to_text(const Value& value) {
  if (value.is_undefined()) return "";
  return value.is(Value::Kind::kText) ? value.as_text() : to_repr(value);
}

std::string to_repr(const Value& value) {
  using Kind = Value::Kind;
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "None";
    case Kind::kBoolean:
      return value.as_boolean() ? "True" : "False";
    case Kind::kInteger:
      return fmt::format("{}", value.as_integer());
    case Kind::kFloat:
      return float_text(value.as_number());
    case Kind::kText:
      return quote(value.as_text());
    case Kind::kList:
      return list_repr(value.as_list());
    case Kind::kDict:
      return dict_repr(value.as_dict());
    default:
      fail(ErrorCode::kUnsupported, "{} cannot be printed", value.type_name());
  }
}

std::string to_json(const Value& value, const JsonStyle& style) {
  return JsonWriter(style).write(value);
}

}  // namespace d2q::jinja
