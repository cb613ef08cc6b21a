#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/jinja/string_literal.h"
#include "text/jinja/text_functions.h"
#include "text/utf8.h"

namespace d2q::jinja {
namespace {

constexpr std::array<std::string_view, 26> kOperators = {
    "**", "//", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_character(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Every line end is a line feed; the last one of all goes.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name)
      : source_(normalize_newlines(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kCorrupt, "{}:{}: {}", name_, line_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  /// Moves to `end`, counting lines.
  void advance_to(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    at_ = end;
  }
  void skip_spaces() {
    size_t end = at_;
    while (end < source_.size()) {
      const Utf8Step step = next_utf8(source_, end);
      if (!is_python_space(step.code_point)) break;
      end += step.length;
    }
    advance_to(end);
  }
  bool starts_with(std::string_view text) const {
    return std::string_view(source_).substr(at_).starts_with(text);
  }
  bool skip(std::string_view text) {
    if (!starts_with(text)) return false;
    advance_to(at_ + text.size());
    return true;
  }

  /// The text up to the next tag, and the tag.
  void read_data() {
    size_t open = at_;
    do {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 == source_.size()) open = source_.size();
    } while (open < source_.size() &&
             std::string_view("{%#").find(source_[open + 1]) == std::string_view::npos && ++open);
    if (open >= source_.size()) {
      add_data(std::string_view(source_).substr(at_));
      advance_to(source_.size());
      return;
    }
    const char type = source_[open + 1];
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    std::string_view data = std::string_view(source_).substr(at_, open - at_);
    if (sign == '-') {
      data = strip_right(data);
    } else if (sign != '+' && type != '{') {
      data = without_indentation(data);
    }
    add_data(data);
    advance_to(open + 2);
    if (sign == '-' || sign == '+') advance_to(at_ + 1);
    if (type == '#') {
      read_comment();
    } else {
      read_tag(type == '%');
    }
    at_line_start_ = source_[at_ - 1] == '\n';
  }

  /// lstrip_blocks: white space between the start of a line and a block goes.
  std::string_view without_indentation(std::string_view data) const {
    const size_t newline = data.rfind('\n');
    if (newline == std::string_view::npos && !at_line_start_) return data;
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    return strip_right(data.substr(line_start)).empty() ? data.substr(0, line_start) : data;
  }

  void add_data(std::string_view data) {
    if (!data.empty()) add(TokenKind::kData, std::string(data));
  }

  void read_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) error("a comment has no end; '#}}' missing?");
    finish_tag(end, "#}", /*takes_newline=*/true);
  }

  /// Goes behind `end`, whose closing bracket a sign may precede.
  void finish_tag(size_t end, std::string_view bracket, bool takes_newline) {
    const char sign = end > at_ ? source_[end - 1] : ' ';
    advance_to(end + bracket.size());
    if (sign == '-') {
      skip_spaces();
    } else if (sign != '+' && takes_newline) {
      skip("\n");
    }
  }

  void read_tag(bool is_block) {
    const int opened_at = line_;
    skip_spaces();
    if (is_block && skip_raw_begin()) return read_raw();
    add(is_block ? TokenKind::kBlockBegin : TokenKind::kOutputBegin, "");
    const std::string_view bracket = is_block ? "%}" : "}}";
    std::string open_brackets;
    while (true) {
      skip_spaces();
      if (at_ == source_.size()) {
        line_ = opened_at;
        error("a tag has no end; '{}' missing?", bracket);
      }
      const char sign = source_[at_];
      const bool signed_end = (sign == '-' || (is_block && sign == '+')) &&
                              std::string_view(source_).substr(at_ + 1).starts_with(bracket);
      if (open_brackets.empty() && (signed_end || starts_with(bracket))) {
        add(is_block ? TokenKind::kBlockEnd : TokenKind::kOutputEnd, "");
        finish_tag(at_ + (signed_end ? 1 : 0), bracket, is_block);
        return;
      }
      read_token(open_brackets);
    }
  }

  /// "raw %}" behind "{%".
  bool skip_raw_begin() {
    const size_t start = at_;
    const int line = line_;
    if (skip("raw")) {
      skip_spaces();
      const bool strip = skip("-%}");
      if (strip) skip_spaces();
      if (strip || skip("%}")) return true;
    }
    at_ = start;
    line_ = line;
    return false;
  }

  void read_raw() {
    const size_t start = at_;
    at_line_start_ = source_[at_ - 1] == '\n';
    for (size_t open = source_.find("{%", at_); open != std::string::npos;
         open = source_.find("{%", open + 2)) {
      size_t end = open + 2;
      const char sign = end < source_.size() ? source_[end] : ' ';
      if (sign == '-' || sign == '+') ++end;
      end = std::min(source_.find_first_not_of(" \t\n", end), source_.size());
      if (!std::string_view(source_).substr(end).starts_with("endraw")) continue;
      end = std::min(source_.find_first_not_of(" \t\n", end + 6), source_.size());
      if (end < source_.size() && (source_[end] == '-' || source_[end] == '+')) ++end;
      if (!std::string_view(source_).substr(end).starts_with("%}")) continue;
      const auto data = std::string_view(source_).substr(start, open - start);
      add_data(sign == '-' ? strip_right(data) : sign == '+' ? data : without_indentation(data));
      finish_tag(end, "%}", true);
      return;
    }
    error("'raw' has no 'endraw'");
  }

  void read_token(std::string& open_brackets) {
    const char c = source_[at_];
    if (c == '\'' || c == '"') return read_string(c);
    if (is_digit(c)) return read_number();
    if (is_name_character(c)) {
      size_t end = at_;
      while (end < source_.size() && is_name_character(source_[end])) ++end;
      add(TokenKind::kName, source_.substr(at_, end - at_));
      return advance_to(end);
    }
    for (const std::string_view op : kOperators) {
      if (!starts_with(op)) continue;
      if (op == "(" || op == "[" || op == "{") open_brackets += op;
      if (op == ")" || op == "]" || op == "}") {
        const char wanted = op == ")" ? '(' : op == "]" ? '[' : '{';
        if (open_brackets.empty() || open_brackets.back() != wanted) error("unexpected '{}'", op);
        open_brackets.pop_back();
      }
      add(TokenKind::kOperator, std::string(op));
      return advance_to(at_ + op.size());
    }
    error("unexpected character '{}'", source_.substr(at_, next_utf8(source_, at_).length));
  }

  void read_string(char mark) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != mark) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) error("a text has no end; {} missing?", mark);
    const std::string_view body = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    std::optional<std::string> text = unescape_string(body);
    if (!text) error("'{}' has an escape that means no character", body);
    add(TokenKind::kString, *std::move(text));
    advance_to(end + 1);
  }

  size_t digits_end(size_t at) const {
    while (at < source_.size() && (is_digit(source_[at]) || source_[at] == '_')) ++at;
    return at;
  }

  void read_number() {
    size_t end = digits_end(at_);
    TokenKind kind = TokenKind::kInteger;
    const bool is_member = at_ > 0 && source_[at_ - 1] == '.';  // items.0.1
    if (!is_member && end + 1 < source_.size() && source_[end] == '.' &&
        is_digit(source_[end + 1])) {
      end = digits_end(end + 1);
      kind = TokenKind::kFloat;
    }
    if (!is_member && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t digits = end + 1;
      if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
      if (digits < source_.size() && is_digit(source_[digits])) {
        end = digits_end(digits);
        kind = TokenKind::kFloat;
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    add(kind, std::move(text));
    advance_to(end);
  }

  std::string source_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // what was consumed last ended a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize_template(std::string_view source, const std::string& name) {
  if (!is_valid_utf8(source)) fail(ErrorCode::kCorrupt, "{}: a template of malformed UTF-8", name);
  return Lexer(source, name).run();
}

}  // namespace d2q::jinja
