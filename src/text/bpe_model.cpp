#include "text/bpe_model.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace d2q {
namespace {

// Below this many symbols a scan for the smallest rank beats the heap.
constexpr size_t kShortWord = 48;
constexpr uint32_t kNoRank = ~uint32_t{0};

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

size_t hash_pair(uint64_t pair) {
  pair *= 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(pair ^ (pair >> 32));
}

/// Whether a space mark follows another character.
bool has_inner_space_mark(std::string_view token) {
  while (token.starts_with(kSpaceMark)) token.remove_prefix(kSpaceMark.size());
  return token.find(kSpaceMark) != std::string_view::npos;
}

}  // namespace

BpeModel::BpeModel(const Vocabulary& vocabulary, const std::vector<MergeRule>& merges,
                   BpeOptions options, std::string_view source)
    : vocabulary_(vocabulary), options_(std::move(options)) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    append_utf8(token, alphabet_character(static_cast<uint8_t>(byte)));
    byte_ids_[static_cast<size_t>(byte)] = vocabulary_.find(token).value_or(-1);
  }
  add_merges(merges, source);
  may_cut_ = !options_.byte_level && !options_.ignore_merges && vocabulary_.find(kSpaceMark) &&
             std::ranges::none_of(merges, [](const MergeRule& merge) {
               return has_inner_space_mark(merge.first + merge.second);
             });
}

void BpeModel::add_merges(const std::vector<MergeRule>& merges, std::string_view source) {
  if (merges.size() > kMaxMerges) {
    fail(ErrorCode::kCorrupt, "{}: {} merges, the limit is {}; corrupt file?", source,
         merges.size(), kMaxMerges);
  }
  table_.assign(std::bit_ceil(merges.size() * 2 + 1), {kNoPair, 0, 0});
  mask_ = table_.size() - 1;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& left = merges[rank].first;
    const std::string& right = merges[rank].second;
    const auto id_of = [&](const std::string& token) {
      const std::optional<int32_t> id = vocabulary_.find(token);
      if (!id) {
        fail(ErrorCode::kCorrupt,
             "{}: merge {} ('{}' with '{}') needs the token '{}', which the vocabulary has not",
             source, rank, left, right, token);
      }
      return *id;
    };
    const uint64_t pair = pair_key(id_of(left), id_of(right));
    size_t slot = hash_pair(pair) & mask_;
    while (table_[slot].pair != kNoPair && table_[slot].pair != pair) slot = (slot + 1) & mask_;
    // A pair that is listed twice has its later rank, as in the reference tokenizers.
    table_[slot] = {pair, static_cast<uint32_t>(rank), id_of(left + right)};
  }
}

const BpeModel::Merge* BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  for (size_t slot = hash_pair(pair) & mask_;; slot = (slot + 1) & mask_) {
    if (table_[slot].pair == pair) return &table_[slot];
    if (table_[slot].pair == kNoPair) return nullptr;
  }
}

void BpeModel::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.size() > kMaxWordBytes) {
    fail(ErrorCode::kInvalidArgument, "a word of {} bytes cannot be tokenized, the limit is {}",
         word.size(), kMaxWordBytes);
  }
  if (options_.ignore_merges) {
    if (const std::optional<int32_t> id = whole_word(word)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  first_symbols(word, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

std::optional<int32_t> BpeModel::whole_word(std::string_view word) const {
  if (word.size() > kMaxTokenBytes) return std::nullopt;
  return options_.byte_level ? vocabulary_.find(to_alphabet(word)) : vocabulary_.find(word);
}

void BpeModel::first_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  bool unknown_pending = false;
  const auto unknown_id = [&] {
    const std::optional<int32_t> id = vocabulary_.find(options_.unk_token);
    if (!id) {
      fail(ErrorCode::kCorrupt,
           "the text needs the unknown token '{}', which the vocabulary has not",
           options_.unk_token);
    }
    return *id;
  };
  const auto add_unknown = [&](std::string_view character) {
    if (options_.byte_fallback) {
      std::vector<int32_t> bytes;
      for (const char c : character) {
        const auto id = vocabulary_.find(fmt::format("<0x{:02X}>", static_cast<uint8_t>(c)));
        if (id) bytes.push_back(*id);
      }
      if (bytes.size() == character.size()) {
        symbols.insert(symbols.end(), bytes.begin(), bytes.end());
        return;
      }
    }
    if (options_.unk_token.empty()) return;
    if (unknown_pending && !options_.fuse_unk) symbols.push_back(unknown_id());
    unknown_pending = true;
  };
  const auto add_known = [&](int32_t id) {
    if (unknown_pending) symbols.push_back(unknown_id());
    unknown_pending = false;
    symbols.push_back(id);
  };
  if (options_.byte_level) {
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        add_known(id);
      } else {
        add_unknown(to_alphabet({&c, 1}));
      }
    }
  } else {
    for (size_t at = 0; at < word.size();) {
      const std::string_view character = word.substr(at, next_valid_utf8(word, at).length);
      if (const std::optional<int32_t> id = vocabulary_.find(character)) {
        add_known(*id);
      } else {
        add_unknown(character);
      }
      at += character.size();
    }
  }
  if (unknown_pending) symbols.push_back(unknown_id());
}

void BpeModel::merge_short(std::vector<int32_t>& symbols) const {
  std::array<uint32_t, kShortWord> ranks;
  std::array<int32_t, kShortWord> merged;
  size_t n = symbols.size();
  const auto look_up = [&](size_t i) {
    const Merge* merge = find(symbols[i], symbols[i + 1]);
    ranks[i] = merge != nullptr ? merge->rank : kNoRank;
    merged[i] = merge != nullptr ? merge->id : 0;
  };
  if (n == 0) return;
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  ranks[n - 1] = kNoRank;
  merged[n - 1] = 0;
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    symbols[best] = merged[best];
    --n;
    for (size_t i = best + 1; i < n; ++i) {  // the one after the pair slides into the gap
      symbols[i] = symbols[i + 1];
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  symbols.resize(n);
}

void BpeModel::merge_long(std::vector<int32_t>& symbols) const {
  constexpr int32_t kGone = -1;
  struct Candidate {
    uint32_t rank;
    uint32_t position;
    uint64_t pair;  // as it was seen; the entry is stale when the symbols have changed since
    int32_t id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const auto n = static_cast<uint32_t>(symbols.size());
  std::vector<uint32_t> next(n);
  std::vector<uint32_t> previous(n);
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // wraps at 0, which is never read
  }
  std::vector<Candidate> storage;
  storage.reserve(n);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{},
                                                                               std::move(storage));
  const auto look_up = [&](uint32_t i) {
    const Merge* merge = find(symbols[i], symbols[next[i]]);
    if (merge != nullptr) queue.push({merge->rank, i, merge->pair, merge->id});
  };
  for (uint32_t i = 0; i + 1 < n; ++i) look_up(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const uint32_t left = best.position;
    const uint32_t right = next[left];
    if (symbols[left] == kGone || right == n) continue;
    if (pair_key(symbols[left], symbols[right]) != best.pair) continue;
    symbols[left] = best.id;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[right] < n) previous[next[right]] = left;
    if (left > 0) look_up(previous[left]);
    if (next[left] < n) look_up(left);
  }
  std::erase(symbols, kGone);
}

}  // namespace d2q
