// The unigram model: of all ways to cut a word into pieces of the vocabulary, the one with the
// largest sum of scores.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "text/piece_trie.h"
#include "text/vocabulary.h"
#include "text/word_model.h"

namespace d2q {

struct UnigramOptions {
  std::vector<double> scores;     // of each id
  std::optional<int32_t> unk_id;  // for characters that no piece begins with
  bool byte_fallback = false;     // unknown characters become their bytes' tokens <0x00>..<0xFF>
};

/// A score as the reference tokenizers read it: the integer of its decimal digits, which is rounded
/// when there are 17 of them, by a power of ten, rounded again. That may be the neighbour of the
/// nearest double, and decides between cuts whose sums tie.
double score_as_read(double score);

/// Viterbi over the characters of a word, O(length x longest piece). `vocabulary` must outlive it.
class UnigramModel final : public WordModel {
 public:
  /// Throws Error{kCorrupt}, naming `source`, when the scores do not fit the vocabulary.
  UnigramModel(const Vocabulary& vocabulary, UnigramOptions options, std::string_view source);

  void encode(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  struct Cut {
    double score = 0.0;
    int32_t id = -1;  // of the last piece
    uint32_t start = kNone;
  };
  static constexpr uint32_t kNone = ~uint32_t{0};
  std::vector<Cut> best_cuts(std::string_view word) const;
  void append_unknown(std::string_view characters, std::vector<int32_t>& ids) const;

  const Vocabulary& vocabulary_;
  UnigramOptions options_;
  PieceTrie trie_;
  double unknown_score_ = 0.0;
  std::array<int32_t, 256> byte_ids_{};
};

}  // namespace d2q
