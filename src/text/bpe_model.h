// Byte-pair encoding of one word: the lowest-ranked pair of neighbours is merged, the leftmost
// first among equals, until none is left.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/vocabulary.h"
#include "text/word_model.h"

namespace d2q {

inline constexpr size_t kMaxMerges = size_t{1} << 21;
/// Positions inside a word are 32-bit.
inline constexpr size_t kMaxWordBytes = size_t{1} << 30;

struct BpeOptions {
  /// Words are bytes, which the vocabulary writes in the byte-level alphabet; otherwise the first
  /// symbols are characters as they stand.
  bool byte_level = true;
  bool ignore_merges = false;  // a word that is a token is that token
  bool byte_fallback = false;  // unknown characters become their bytes' tokens <0x00>..<0xFF>
  bool fuse_unk = false;       // neighbouring unknown characters are one unknown token
  std::string unk_token = {};  // empty: unknown characters are left out
};

/// A merge as the file has it: the strings of the left and the right token.
using MergeRule = std::pair<std::string, std::string>;

/// Immutable and thread-safe; `vocabulary` must outlive it.
class BpeModel final : public WordModel {
 public:
  /// `merges` in rank order. Throws Error{kCorrupt}, naming `source`, on a merge whose parts or
  /// result are not in the vocabulary.
  BpeModel(const Vocabulary& vocabulary, const std::vector<MergeRule>& merges, BpeOptions options,
           std::string_view source);

  /// O(n log n) in the length of the word.
  void encode(std::string_view word, std::vector<int32_t>& ids) const override;
  /// True when no merge joins another character with a space mark behind it.
  bool may_cut_before_space_mark() const override { return may_cut_; }

 private:
  struct Merge {
    uint64_t pair = 0;  // left id in the high half
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  void add_merges(const std::vector<MergeRule>& merges, std::string_view source);
  const Merge* find(int32_t left, int32_t right) const;
  std::optional<int32_t> whole_word(std::string_view word) const;
  void first_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  std::array<int32_t, 256> byte_ids_{};  // -1 where the vocabulary has no token for the byte
  std::vector<Merge> table_;             // open addressing, a power of two
  size_t mask_ = 0;
  bool may_cut_ = false;
};

}  // namespace d2q
