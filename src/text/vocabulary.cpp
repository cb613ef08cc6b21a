#include "text/vocabulary.h"

#include <algorithm>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q {

Vocabulary::Vocabulary(std::vector<Entry> entries, std::string_view source) {
  int32_t largest = -1;
  for (const Entry& entry : entries) {
    if (entry.id < 0 || entry.id >= kMaxVocabulary) {
      fail(ErrorCode::kCorrupt, "{}: token id {} is outside 0..{}; corrupt vocabulary?", source,
           entry.id, kMaxVocabulary - 1);
    }
    if (entry.token.size() > kMaxTokenBytes) {
      fail(ErrorCode::kCorrupt,
           "{}: token {} is {} bytes long, the limit is {}; corrupt vocabulary?", source, entry.id,
           entry.token.size(), kMaxTokenBytes);
    }
    if (!is_valid_utf8(entry.token)) {
      fail(ErrorCode::kCorrupt, "{}: token {} is not valid UTF-8; corrupt vocabulary?", source,
           entry.id);
    }
    largest = std::max(largest, entry.id);
  }
  tokens_.resize(static_cast<size_t>(largest) + 1);
  present_.resize(tokens_.size());
  for (Entry& entry : entries) {
    const auto slot = static_cast<size_t>(entry.id);
    if (present_[slot]) {
      fail(ErrorCode::kCorrupt, "{}: id {} is given to both '{}' and '{}'; corrupt vocabulary?",
           source, entry.id, tokens_[slot], entry.token);
    }
    present_[slot] = true;
    tokens_[slot] = std::move(entry.token);
  }
  ids_.reserve(entries.size());
  for (const Entry& entry : entries) {
    ids_[tokens_[static_cast<size_t>(entry.id)]] = entry.id;
  }
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Vocabulary::token(int32_t id) const {
  if (id < 0 || id >= size() || !present_[static_cast<size_t>(id)]) return nullptr;
  return &tokens_[static_cast<size_t>(id)];
}

}  // namespace d2q
