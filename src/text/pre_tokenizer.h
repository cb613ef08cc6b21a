// Pre-tokenizers: how normalized text is cut into the words that BPE merges inside of.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_view.h"

namespace d2q {

/// Words in the order of the text, and the text of those that are not simply parts of the input.
struct Words {
  std::vector<std::string_view> words;  // none empty
  std::deque<std::string> owned;
};

/// One way of cutting. Immutable and thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Appends to `out` the parts of every piece (valid UTF-8, not empty). `at_start`: the first one
  /// is the beginning of the whole text.
  virtual void split(const std::vector<std::string_view>& pieces, bool at_start,
                     Words& out) const = 0;
};

/// Pre-tokenizers one after the other.
class PreTokenizerChain {
 public:
  PreTokenizerChain() = default;
  /// ByteLevel, Metaspace, Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
  /// CharDelimiterSplit and Sequence of them.
  /// Throws Error{kUnsupported} naming any other type.
  explicit PreTokenizerChain(const JsonView& json);

  /// Whether the words are byte strings, to be written in the byte-level alphabet by the model.
  bool byte_level() const noexcept { return byte_level_; }
  /// The words of `text`; views into it or into the returned strings. `at_start`: nothing stands
  /// before it, not even an added token.
  Words split(std::string_view text, bool at_start = true) const;

 private:
  void append(const JsonView& json);
  std::vector<std::unique_ptr<PreTokenizer>> stages_;
  bool byte_level_ = false;
};

}  // namespace d2q
