#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/regex.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

/// NFC, NFD, NFKC, NFKD. ASCII is never changed and composes with nothing before it, so only runs
/// of other characters, with an ASCII one before them, go through utf8proc; and of those only what
/// the reference's older tables know, for utf8proc would change newer characters too.
class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options | UTF8PROC_STABLE) {}

  void apply(std::string& text) const override {
    std::string out;
    size_t copied = 0;
    for (size_t at = 0; at < text.size();) {
      if (is_ascii(text[at])) {
        ++at;
        continue;
      }
      const size_t first = at;
      while (at < text.size() && !is_ascii(text[at])) {
        const Utf8Step step = next_valid_utf8(text, at);
        if (!is_normalizing(step.code_point)) break;
        at += step.length;
      }
      if (at == first) {
        at += next_valid_utf8(text, at).length;
        continue;
      }
      const size_t start = first > copied && is_ascii(text[first - 1]) ? first - 1 : first;
      out.append(text, copied, start - copied);
      append_normalized(out, std::string_view(text).substr(start, at - start));
      copied = at;
    }
    if (copied == 0) return;
    out.append(text, copied);
    text = std::move(out);
  }

 private:
  void append_normalized(std::string& out, std::string_view run) const {
    struct Free {
      void operator()(utf8proc_uint8_t* pointer) const { std::free(pointer); }
    };
    utf8proc_uint8_t* raw = nullptr;
    const utf8proc_ssize_t size = utf8proc_map(
        reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
        static_cast<utf8proc_ssize_t>(run.size()), &raw, static_cast<utf8proc_option_t>(options_));
    const std::unique_ptr<utf8proc_uint8_t, Free> mapped(raw);
    D2Q_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
    out.append(reinterpret_cast<const char*>(mapped.get()), static_cast<size_t>(size));
  }

  int options_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(std::string& text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = next_valid_utf8(text, at);
      at += step.length;
      if (step.code_point == 0x130) {  // the one character whose lower case is two
        append_utf8(out, U'i');
        append_utf8(out, 0x307);
      } else {
        append_utf8(out, lower_case(step.code_point));
      }
    }
    text = std::move(out);
  }
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ReplaceString final : public Normalizer {
 public:
  ReplaceString(std::string pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text) const override {
    std::string out;
    size_t done = 0;
    for (size_t at = text.find(pattern_); at != std::string::npos; at = text.find(pattern_, done)) {
      out.append(text, done, at - done).append(content_);
      done = at + pattern_.size();
    }
    if (done == 0) return;
    text = out.append(text, done);
  }

 private:
  std::string pattern_;
  std::string content_;
};

class ReplacePattern final : public Normalizer {
 public:
  ReplacePattern(Regex regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}
  void apply(std::string& text) const override {
    if (text.empty()) return;  // not even a pattern that matches nothing finds anything in it
    Regex::Matcher matcher(regex_);
    matcher.reset(text);
    std::string out;
    size_t done = 0;
    for (Regex::Match match; matcher.next(match); done = match.end) {
      out.append(text, done, match.start - done).append(content_);
    }
    text = out.append(text, done);
  }

 private:
  Regex regex_;
  std::string content_;
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text) const override {
    size_t start = 0;
    size_t end = text.size();
    while (right_ && end > 0) {
      const Utf8Step step = previous_valid_utf8(text, end);
      if (!is_white_space(step.code_point)) break;
      end -= step.length;
    }
    while (left_ && start < end) {
      const Utf8Step step = next_valid_utf8(text, start);
      if (!is_white_space(step.code_point)) break;
      start += step.length;
    }
    text = text.substr(start, end - start);
  }

 private:
  bool left_;
  bool right_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}
  void apply(std::string& text) const override {
    for (const auto& part : parts_) part->apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

std::unique_ptr<Normalizer> make_replace(const JsonView& json) {
  const JsonView pattern = json.at("pattern");
  const std::string content = json.string("content");
  if (const auto text = pattern.find("String")) {
    if (text->as_string().empty()) text->unsupported("an empty pattern");
    return std::make_unique<ReplaceString>(text->as_string(), content);
  }
  return std::make_unique<ReplacePattern>(Regex(pattern.string("Regex"), pattern.path()), content);
}

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const JsonView& json) {
  const std::string type = json.string("type");
  if (type == "NFC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE);
  if (type == "NFD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "Prepend") return std::make_unique<Prepend>(json.string("prepend"));
  if (type == "Replace") return make_replace(json);
  if (type == "Strip") {
    return std::make_unique<Strip>(json.boolean("strip_left", true),
                                   json.boolean("strip_right", true));
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const JsonView& part : json.at("normalizers").items()) {
      parts.push_back(make_normalizer(part));
    }
    return std::make_unique<NormalizerSequence>(std::move(parts));
  }
  json.unsupported("normalizer '" + type + "'");
}

}  // namespace d2q
