#include "text/unigram_model.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <string>

#include "base/error.h"
#include "text/bpe_model.h"
#include "text/utf8.h"

namespace d2q {
namespace {

// How much worse than the worst piece an unknown character is, as the reference has it.
constexpr double kUnknownPenalty = 10.0;

}  // namespace

double score_as_read(double score) {
  constexpr int kLargestExponent = 308;
  std::array<char, 40> text;
  // The shortest digits that give the double back, d.ddde±x: what files of tokenizers hold.
  const auto written = std::to_chars(text.data(), text.data() + text.size(), std::abs(score),
                                     std::chars_format::scientific);
  uint64_t digits = 0;
  int exponent = 0;
  const char* at = text.data();
  for (bool in_fraction = false; *at != 'e'; ++at) {
    if (*at == '.') {
      in_fraction = true;
      continue;
    }
    digits = digits * 10 + static_cast<uint64_t>(*at - '0');
    exponent -= in_fraction ? 1 : 0;
  }
  int power = 0;
  at += at[1] == '+' ? 2 : 1;
  std::from_chars(at, written.ptr, power);
  exponent += power;
  if (std::abs(exponent) > kLargestExponent) return score;
  const std::string ten = fmt::format("1e{}", std::abs(exponent));
  double scale = 1.0;
  std::from_chars(ten.data(), ten.data() + ten.size(), scale);
  const auto whole = static_cast<double>(digits);
  return std::copysign(exponent < 0 ? whole / scale : whole * scale, score);
}

UnigramModel::UnigramModel(const Vocabulary& vocabulary, UnigramOptions options,
                           std::string_view source)
    : vocabulary_(vocabulary), options_(std::move(options)) {
  if (options_.scores.size() != static_cast<size_t>(vocabulary_.size()) ||
      options_.scores.empty()) {
    fail(ErrorCode::kCorrupt, "{}: {} scores for {} pieces", source, options_.scores.size(),
         vocabulary_.size());
  }
  if (options_.unk_id && (*options_.unk_id < 0 || *options_.unk_id >= vocabulary_.size())) {
    fail(ErrorCode::kCorrupt, "{}: unk_id {} is outside the vocabulary of {}", source,
         *options_.unk_id, vocabulary_.size());
  }
  std::vector<std::pair<std::string_view, int32_t>> pieces;
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const double score = options_.scores[static_cast<size_t>(id)];
    if (!std::isfinite(score))
      fail(ErrorCode::kCorrupt, "{}: piece {} scores {}", source, id, score);
    const std::string& piece = *vocabulary_.token(id);
    pieces.emplace_back(piece, *vocabulary_.find(piece));
  }
  unknown_score_ = *std::ranges::min_element(options_.scores) - kUnknownPenalty;
  trie_ = PieceTrie(std::move(pieces));
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    byte_ids_[byte] = vocabulary_.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  }
}

std::vector<UnigramModel::Cut> UnigramModel::best_cuts(std::string_view word) const {
  std::vector<Cut> cuts(word.size() + 1);
  const auto offer = [&](size_t end, double score, int32_t id, size_t start) {
    Cut& cut = cuts[end];
    if (cut.start == kNone || score > cut.score) cut = {score, id, static_cast<uint32_t>(start)};
  };
  for (size_t start = 0; start < word.size();) {
    const size_t character = next_valid_utf8(word, start).length;
    const double so_far = cuts[start].score;
    bool is_known = false;
    trie_.prefixes(word.substr(start), [&](size_t length, int32_t id) {
      offer(start + length, so_far + options_.scores[static_cast<size_t>(id)], id, start);
      is_known = is_known || length == character;
    });
    if (!is_known) {
      if (!options_.unk_id) {
        fail(ErrorCode::kCorrupt,
             "the text has a character outside the vocabulary, which has no unknown token");
      }
      offer(start + character, so_far + unknown_score_, *options_.unk_id, start);
    }
    start += character;
  }
  return cuts;
}

void UnigramModel::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.size() > kMaxWordBytes) {
    fail(ErrorCode::kInvalidArgument, "a word of {} bytes cannot be tokenized, the limit is {}",
         word.size(), kMaxWordBytes);
  }
  const std::vector<Cut> cuts = best_cuts(word);
  // Backwards: the ends of the pieces; neighbouring unknown characters are one.
  std::vector<uint32_t> ends;
  bool after_unknown = false;
  for (auto end = static_cast<uint32_t>(word.size()); end > 0; end = cuts[end].start) {
    const bool is_unknown = options_.unk_id && cuts[end].id == *options_.unk_id;
    if (!(is_unknown && after_unknown)) ends.push_back(end);
    after_unknown = is_unknown;
  }
  uint32_t start = 0;
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const std::string_view piece = word.substr(start, *end - start);
    // By its string, for unknown characters in a row may be a piece together.
    if (const auto id = vocabulary_.find(piece)) {
      ids.push_back(*id);
    } else {
      append_unknown(piece, ids);
    }
    start = *end;
  }
}

void UnigramModel::append_unknown(std::string_view characters, std::vector<int32_t>& ids) const {
  const auto id_of = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)]; };
  if (options_.byte_fallback &&
      std::ranges::all_of(characters, [&](char c) { return id_of(c) >= 0; })) {
    for (const char c : characters) ids.push_back(id_of(c));
  } else {
    ids.push_back(*options_.unk_id);
  }
}

}  // namespace d2q
