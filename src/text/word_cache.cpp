#include "text/word_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace d2q {

WordCache::Entry& WordCache::slot(std::string_view word) {
  return entries_[XXH3_64bits(word.data(), word.size()) % kEntries];
}

bool WordCache::holds(const Entry& entry, std::string_view word) {
  return entry.n_bytes == word.size() &&
         std::memcmp(entry.bytes.data(), word.data(), word.size()) == 0;
}

void WordCache::store(Entry& entry, std::string_view word, std::span<const int32_t> ids) {
  entry.n_bytes = static_cast<uint8_t>(word.size());
  entry.n_ids = static_cast<uint8_t>(ids.size());
  std::copy(word.begin(), word.end(), entry.bytes.begin());
  std::copy(ids.begin(), ids.end(), entry.ids.begin());
}

WordCachePool::Loan::Loan(WordCachePool& pool) : pool_(pool) {
  const std::lock_guard lock(pool_.mutex_);
  if (pool_.idle_.empty()) {
    cache_ = std::make_unique<WordCache>();
  } else {
    cache_ = std::move(pool_.idle_.back());
    pool_.idle_.pop_back();
  }
}

WordCachePool::Loan::~Loan() {
  const std::lock_guard lock(pool_.mutex_);
  if (pool_.idle_.size() < kMaxKept) pool_.idle_.push_back(std::move(cache_));
}

}  // namespace d2q
