#include "text/pre_tokenizer.h"

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/regex.h"
#include "text/split_behavior.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"
#include "text/word_scanner.h"

namespace d2q {
namespace {

class SplitByPattern final : public PreTokenizer {
 public:
  SplitByPattern(Regex regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  void split(const std::vector<std::string_view>& pieces, bool, Words& out) const override {
    Regex::Matcher matcher(regex_);
    std::vector<TextPart> parts;
    for (const std::string_view piece : pieces) {
      parts.clear();
      matcher.reset(piece);
      size_t done = 0;
      for (Regex::Match match; matcher.next(match); done = match.end) {
        if (match.start != done) parts.push_back({done, match.start, invert_});
        parts.push_back({match.start, match.end, !invert_});
      }
      if (done != piece.size()) parts.push_back({done, piece.size(), invert_});
      append_words(piece, parts, behavior_, out.words);
    }
  }

 private:
  Regex regex_;
  SplitBehavior behavior_;
  bool invert_;
};

/// Every match of a pattern that has a scanner is a word.
class SplitByScanner final : public PreTokenizer {
 public:
  explicit SplitByScanner(const WordScanner& scanner) : scanner_(scanner) {}

  void split(const std::vector<std::string_view>& pieces, bool, Words& out) const override {
    for (const std::string_view piece : pieces) {
      for (size_t at = 0; at < piece.size();) {
        const size_t end = scanner_.word_end(piece, at);
        out.words.push_back(piece.substr(at, end - at));
        at = end;
      }
    }
  }

 private:
  WordScanner scanner_;
};

/// Cuts at the characters of a class.
class SplitByClass final : public PreTokenizer {
 public:
  SplitByClass(bool (*is_member)(char32_t), SplitBehavior behavior)
      : is_member_(is_member), behavior_(behavior) {}

  void split(const std::vector<std::string_view>& pieces, bool, Words& out) const override {
    std::vector<TextPart> parts;
    for (const std::string_view piece : pieces) {
      parts.clear();
      size_t done = 0;
      for (size_t at = 0; at < piece.size();) {
        const Utf8Step step = next_valid_utf8(piece, at);
        const size_t end = at + step.length;
        if (is_member_(step.code_point)) {
          if (at != done) parts.push_back({done, at, false});
          parts.push_back({at, end, true});
          done = end;
        }
        at = end;
      }
      if (done != piece.size()) parts.push_back({done, piece.size(), false});
      append_words(piece, parts, behavior_, out.words);
    }
  }

 private:
  bool (*is_member_)(char32_t);
  SplitBehavior behavior_;
};

class PrefixSpace final : public PreTokenizer {
 public:
  void split(const std::vector<std::string_view>& pieces, bool, Words& out) const override {
    for (const std::string_view piece : pieces) {
      if (piece.front() == ' ') {
        out.words.push_back(piece);
      } else {
        out.words.push_back(out.owned.emplace_back(" ").append(piece));
      }
    }
  }
};

/// Spaces become marks, one may be put in front, and words begin at marks.
class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { kNever, kFirst, kAlways };
  Metaspace(std::string mark, Prepend prepend, bool cut)
      : mark_(std::move(mark)), prepend_(prepend), cut_(cut) {}

  void split(const std::vector<std::string_view>& pieces, bool at_start,
             Words& out) const override {
    std::vector<TextPart> parts;
    for (size_t i = 0; i < pieces.size(); ++i) {
      std::string& text = out.owned.emplace_back();
      text.reserve(pieces[i].size() + pieces[i].size() / 2);
      for (const char c : pieces[i]) {
        if (c == ' ') {
          text += mark_;
        } else {
          text += c;
        }
      }
      const bool wanted =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && at_start && i == 0);
      if (wanted && !text.starts_with(mark_)) text.insert(0, mark_);
      if (cut_) {
        cut(text, parts, out);
      } else {
        out.words.push_back(text);
      }
    }
  }

 private:
  void cut(std::string_view text, std::vector<TextPart>& parts, Words& out) const {
    parts.clear();
    size_t done = 0;
    for (size_t at = text.find(mark_); at != std::string_view::npos; at = text.find(mark_, done)) {
      if (at != done) parts.push_back({done, at, false});
      done = at + mark_.size();
      parts.push_back({at, done, true});
    }
    if (done != text.size()) parts.push_back({done, text.size(), false});
    append_words(text, parts, SplitBehavior::kMergedWithNext, out.words);
  }

  std::string mark_;
  Prepend prepend_;
  bool cut_;
};

/// ByteLevel's rewriting, for chains that go on cutting the rewritten text.
class WriteInAlphabet final : public PreTokenizer {
 public:
  void split(const std::vector<std::string_view>& pieces, bool, Words& out) const override {
    for (const std::string_view piece : pieces) {
      out.words.push_back(out.owned.emplace_back(to_alphabet(piece)));
    }
  }
};

std::unique_ptr<PreTokenizer> make_split(const JsonView& json) {
  const JsonView pattern = json.at("pattern");
  const auto text = pattern.find("String");
  const SplitBehavior behavior = parse_split_behavior(json.at("behavior"));
  const bool invert = json.boolean("invert", false);
  const std::string expression = text ? escape_pattern(text->as_string()) : pattern.string("Regex");
  // Each match is a word of its own, whether it counts as what is cut at or as what is between.
  const auto scanner = WordScanner::for_pattern(expression);
  if (scanner &&
      ((behavior == SplitBehavior::kIsolated) || (behavior == SplitBehavior::kRemoved && invert))) {
    return std::make_unique<SplitByScanner>(*scanner);
  }
  return std::make_unique<SplitByPattern>(Regex(expression, pattern.path()), behavior, invert);
}

std::unique_ptr<PreTokenizer> make_metaspace(const JsonView& json) {
  using Prepend = Metaspace::Prepend;
  const std::string mark = json.string("replacement");
  if (mark.empty()) json.unsupported("an empty replacement");
  const std::string scheme =
      json.string_or("prepend_scheme", json.boolean("add_prefix_space", true) ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    json.unsupported("prepend_scheme '" + scheme + "'");
  }
  const Prepend prepend = scheme == "always"  ? Prepend::kAlways
                          : scheme == "first" ? Prepend::kFirst
                                              : Prepend::kNever;
  return std::make_unique<Metaspace>(mark, prepend, json.boolean("split", true));
}

}  // namespace

PreTokenizerChain::PreTokenizerChain(const JsonView& json) { append(json); }

void PreTokenizerChain::append(const JsonView& json) {
  const std::string type = json.string("type");
  if (type == "Sequence") {
    for (const JsonView& part : json.at("pretokenizers").items()) append(part);
    return;
  }
  if (byte_level_) {
    stages_.push_back(std::make_unique<WriteInAlphabet>());
    byte_level_ = false;
  }
  if (type == "ByteLevel") {
    if (json.boolean("add_prefix_space", true)) stages_.push_back(std::make_unique<PrefixSpace>());
    if (json.boolean("use_regex", true)) {
      stages_.push_back(
          std::make_unique<SplitByScanner>(*WordScanner::for_pattern(WordScanner::kGpt2Pattern)));
    }
    byte_level_ = true;
  } else if (type == "Split") {
    stages_.push_back(make_split(json));
  } else if (type == "Metaspace") {
    stages_.push_back(make_metaspace(json));
  } else if (type == "CharDelimiterSplit") {
    stages_.push_back(std::make_unique<SplitByPattern>(
        Regex(escape_pattern(json.string("delimiter")), json.path()), SplitBehavior::kRemoved,
        false));
  } else if (type == "Digits") {
    stages_.push_back(std::make_unique<SplitByClass>(
        is_numeric, json.boolean("individual_digits", false) ? SplitBehavior::kIsolated
                                                             : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    const auto behavior = json.find("behavior");
    stages_.push_back(std::make_unique<SplitByClass>(
        is_punctuation, behavior ? parse_split_behavior(*behavior) : SplitBehavior::kIsolated));
  } else if (type == "WhitespaceSplit") {
    stages_.push_back(std::make_unique<SplitByClass>(is_white_space, SplitBehavior::kRemoved));
  } else if (type == "Whitespace") {
    stages_.push_back(std::make_unique<SplitByPattern>(Regex(R"(\w+|[^\w\s]+)", json.path()),
                                                       SplitBehavior::kRemoved, true));
  } else {
    json.unsupported("pre-tokenizer '" + type + "'");
  }
}

Words PreTokenizerChain::split(std::string_view text, bool at_start) const {
  Words current;
  if (text.empty()) return current;
  current.words.push_back(text);
  for (const auto& stage : stages_) {
    Words next;
    next.owned = std::move(current.owned);
    stage->split(current.words, at_start, next);
    current = std::move(next);
  }
  return current;
}

}  // namespace d2q
