// What cuts a word into tokens.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace d2q {

/// SentencePiece's mark of a space, U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

/// Immutable and thread-safe.
class WordModel {
 public:
  virtual ~WordModel() = default;
  /// Appends the ids of `word` (not empty). Throws Error{kCorrupt} when an unknown character needs
  /// an unknown token that the vocabulary has not.
  virtual void encode(std::string_view word, std::vector<int32_t>& ids) const = 0;
  /// Whether a text has the same ids when it is cut before every kSpaceMark that follows another
  /// character.
  virtual bool may_cut_before_space_mark() const { return false; }
};

}  // namespace d2q
