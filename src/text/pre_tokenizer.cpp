#include "text/pre_tokenizer.h"

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/regex.h"
#include "text/split_behavior.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

/// The pattern that GPT-2's ByteLevel brings along.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class SplitByPattern final : public PreTokenizer {
 public:
  SplitByPattern(Regex regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  void split(const std::vector<std::string_view>& pieces, Words& out) const override {
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

/// Cuts at the characters of a class.
class SplitByClass final : public PreTokenizer {
 public:
  SplitByClass(bool (*is_member)(char32_t), SplitBehavior behavior)
      : is_member_(is_member), behavior_(behavior) {}

  void split(const std::vector<std::string_view>& pieces, Words& out) const override {
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
  void split(const std::vector<std::string_view>& pieces, Words& out) const override {
    for (const std::string_view piece : pieces) {
      if (piece.front() == ' ') {
        out.words.push_back(piece);
      } else {
        out.words.push_back(out.owned.emplace_back(" ").append(piece));
      }
    }
  }
};

/// ByteLevel's rewriting, for chains that go on cutting the rewritten text.
class WriteInAlphabet final : public PreTokenizer {
 public:
  void split(const std::vector<std::string_view>& pieces, Words& out) const override {
    for (const std::string_view piece : pieces) {
      out.words.push_back(out.owned.emplace_back(to_alphabet(piece)));
    }
  }
};

std::unique_ptr<PreTokenizer> make_split(const JsonView& json) {
  const JsonView pattern = json.at("pattern");
  const auto text = pattern.find("String");
  const std::string expression = text ? escape_pattern(text->as_string()) : pattern.string("Regex");
  return std::make_unique<SplitByPattern>(Regex(expression, pattern.path()),
                                          parse_split_behavior(json.at("behavior")),
                                          json.boolean("invert", false));
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
      stages_.push_back(std::make_unique<SplitByPattern>(Regex(kGpt2Pattern, json.path()),
                                                         SplitBehavior::kIsolated, false));
    }
    byte_level_ = true;
  } else if (type == "Split") {
    stages_.push_back(make_split(json));
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

Words PreTokenizerChain::split(std::string_view text) const {
  Words current;
  if (text.empty()) return current;
  current.words.push_back(text);
  for (const auto& stage : stages_) {
    Words next;
    next.owned = std::move(current.owned);
    stage->split(current.words, next);
    current = std::move(next);
  }
  return current;
}

}  // namespace d2q
