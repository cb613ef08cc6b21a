#include <fmt/format.h>

#include <vector>

#include "base/error.h"
#include "text/regex.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

// PCRE2's \s also takes U+180E, which has not been white space since Unicode 6.3.
constexpr std::string_view kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"
    "10ffff}";
constexpr size_t kMaxGroupDepth = 64;

bool is_ascii_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex_digit(char c) {
  return is_ascii_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view source)
      : pattern_(pattern), source_(source) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    if (!groups_.empty()) broken("a group is not closed");
    return std::move(out_);
  }

 private:
  [[noreturn]] void broken(std::string_view why) const {
    fail(ErrorCode::kCorrupt, "{}: pattern '{}' is broken at byte {}: {}", source_, pattern_, at_,
         why);
  }
  [[noreturn]] void unsupported(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "{}: pattern '{}' uses {} (byte {}), which is not supported",
         source_, pattern_, what, at_);
  }
  bool at_end() const { return at_ >= pattern_.size(); }
  bool looking_at(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void step() {
    const char c = pattern_[at_];
    switch (c) {
      case '(':
        open_group();
        return;
      case ')':
        if (groups_.empty()) broken("a ')' without its '('");
        atom_ = groups_.back();
        groups_.pop_back();
        copy(1);
        return;
      case '[':
        atom_ = out_.size();
        character_class();
        return;
      case '\\':
        atom_ = out_.size();
        escape(false);
        return;
      case '{':
        interval();
        return;
      case '^':  // Oniguruma's ^ and $ always stand at lines
      case '$':
        atom_ = out_.size();
        out_ += fmt::format("(?m:{})", c);
        ++at_;
        return;
      case '|':
      case '*':
      case '+':
      case '?':
        copy(1);
        return;
      default:
        atom_ = out_.size();
        copy(next_valid_utf8(pattern_, at_).length);
    }
  }

  void copy(size_t n) {
    out_.append(pattern_, at_, n);
    at_ += n;
  }

  void open_group() {
    if (groups_.size() == kMaxGroupDepth) unsupported("groups nested deeper than 64");
    groups_.push_back(out_.size());
    for (const std::string_view head :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)", "(?-i:", "(?-i)"}) {
      if (!looking_at(head)) continue;
      copy(head.size());
      if (head.back() == ')') groups_.pop_back();
      return;
    }
    if (looking_at("(?") || looking_at("(*"))
      unsupported("a group of a kind other than (?: = ! <= <! > i)");
    copy(1);
  }

  /// {n}, {n,}, {n,m} and {,m}. In Oniguruma a '+' behind one repeats it and a '?' behind {n} makes
  /// it optional; in PCRE2 they would mean "possessive" and "lazy".
  void interval() {
    size_t end = at_ + 1;
    const auto digits = [&] {
      const size_t start = end;
      while (end < pattern_.size() && is_ascii_digit(pattern_[end])) ++end;
      return pattern_.substr(start, end - start);
    };
    const std::string_view low = digits();
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    std::string_view high;
    if (comma) {
      ++end;
      high = digits();
    }
    const bool closed = end < pattern_.size() && pattern_[end] == '}';
    if (!closed || (low.empty() && high.empty())) {
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, comma ? "," : "", high);
    at_ = end + 1;
    if (at_end()) return;
    const bool repeats = pattern_[at_] == '+';
    const bool optional = pattern_[at_] == '?' && !comma;
    if (repeats || optional) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      copy(1);
    }
  }

  /// One escape at at_, outside or inside a class.
  void escape(bool in_class) {
    if (at_ + 1 >= pattern_.size()) broken("it ends in a backslash");
    const char c = pattern_[at_ + 1];
    switch (c) {
      case 's':
        return emit_class(kSpace, in_class);
      case 'S':
        return emit_class(kNotSpace, in_class);
      case 'd':
        return emit_class(with_additions("\\p{Nd}", "Nd"), in_class);
      case 'w':
        return emit_class(with_additions("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "L") +
                              with_additions("", "M") + with_additions("", "Nd"),
                          in_class);
      case 'D':
        return emit_complement(with_additions("\\p{Nd}", "Nd"), in_class);
      case 'W':
        return emit_complement(with_additions("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", "L") +
                                   with_additions("", "M") + with_additions("", "Nd"),
                               in_class);
      case 'p':
      case 'P':
        return property(in_class);
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        copy(2);
        return;
      case 'v':
        out_ += "\\x{b}";
        at_ += 2;
        return;
      case 'x':
      case 'u':
        return code_point(c);
      case 'A':
      case 'z':
        if (in_class) unsupported("an anchor in a class");
        copy(2);
        return;
      default:
        if (is_ascii_alnum(c)) unsupported(fmt::format("the escape \\{}", c));
        ++at_;
        out_ += '\\';
        if (static_cast<unsigned char>(c) >= 0x80) out_.pop_back();
        copy(next_valid_utf8(pattern_, at_).length);
    }
  }

  void emit_class(std::string_view members, bool in_class) {
    out_ += in_class ? std::string(members) : fmt::format("[{}]", members);
    at_ += 2;
  }

  void emit_complement(std::string_view members, bool in_class) {
    if (in_class) unsupported("a complemented class inside a class");
    out_ += fmt::format("[^{}]", members);
    at_ += 2;
  }

  static std::string with_additions(std::string_view members, std::string_view name) {
    std::string result(members);
    for (const CodePointRange& range : unicode_additions(name)) {
      result += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", static_cast<uint32_t>(range.first),
                            static_cast<uint32_t>(range.last));
    }
    return result;
  }

  /// \p{Name}, \P{Name}, \p{^Name}: general categories, and scripts by their name.
  void property(bool in_class) {
    const size_t open = at_ + 2;
    const size_t close = pattern_.find('}', open);
    if (open >= pattern_.size() || pattern_[open] != '{' || close == std::string_view::npos) {
      broken("\\p without {Name}");
    }
    std::string_view name = pattern_.substr(open + 1, close - open - 1);
    bool negated = pattern_[at_ + 1] == 'P';
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    for (const char c : name) {
      if (!is_ascii_alnum(c) && c != '_')
        broken("a property name with other characters than A-Z 0-9 _");
    }
    // PCRE2's bare script name means script extensions, Oniguruma's the script itself.
    const std::string_view kind = name.size() > 2 ? "sc:" : "";
    const std::string members = with_additions(fmt::format("\\p{{{}{}}}", kind, name), name);
    if (negated) {
      if (in_class) unsupported("a complemented class inside a class");
      out_ += fmt::format("[^{}]", members);
    } else {
      out_ += in_class ? members : fmt::format("[{}]", members);
    }
    at_ = close + 1;
  }

  /// \x{HHHH}, \xHH below 0x80 (above, Oniguruma means a raw byte) and \uHHHH.
  void code_point(char kind) {
    size_t start = at_ + 2;
    size_t end = start;
    size_t next = 0;
    if (kind == 'x' && start < pattern_.size() && pattern_[start] == '{') {
      end = pattern_.find('}', ++start);
      if (end == std::string_view::npos) broken("\\x{ without }");
      next = end + 1;
    } else {
      const size_t digits = kind == 'x' ? 2 : 4;
      end = start;
      while (end < pattern_.size() && end - start < digits && is_hex_digit(pattern_[end])) ++end;
      next = end;
      if (end - start != digits) broken("an escape with too few hexadecimal digits");
      if (kind == 'x' && pattern_[start] > '7') unsupported("a raw byte");
    }
    const std::string_view digits = pattern_.substr(start, end - start);
    if (digits.empty() || digits.size() > 6) broken("a code point of no or too many digits");
    for (const char c : digits) {
      if (!is_hex_digit(c)) broken("a code point that is not hexadecimal");
    }
    out_ += fmt::format("\\x{{{}}}", digits);
    at_ = next;
  }

  void character_class() {
    copy(1);
    if (!at_end() && pattern_[at_] == '^') copy(1);
    for (bool first = true;; first = false) {
      if (at_end()) broken("a class is not closed");
      const char c = pattern_[at_];
      if (c == ']' && !first) break;
      if (c == '[') unsupported("a class inside a class");
      if (looking_at("&&")) unsupported("the intersection of classes");
      if (c == '\\') {
        escape(true);
      } else {
        copy(next_valid_utf8(pattern_, at_).length);
      }
    }
    copy(1);
  }

  std::string_view pattern_;
  std::string_view source_;
  std::string out_;
  size_t at_ = 0;
  size_t atom_ = 0;             // where in out_ the thing that a quantifier would repeat starts
  std::vector<size_t> groups_;  // the same for the open groups
};

}  // namespace

std::string translate_pattern(std::string_view pattern, std::string_view source) {
  if (pattern.size() > kMaxPatternBytes) {
    fail(ErrorCode::kUnsupported, "{}: a pattern of {} bytes, the limit is {}", source,
         pattern.size(), kMaxPatternBytes);
  }
  if (!is_valid_utf8(pattern)) {
    fail(ErrorCode::kCorrupt, "{}: a pattern is not valid UTF-8", source);
  }
  return Translator(pattern, source).run();
}

std::string escape_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_ascii_alnum(c)) {
      out += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace d2q
