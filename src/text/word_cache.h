// Remembers the ids of short words: text repeats itself, and a look-up is cheaper than merging.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

namespace d2q {

/// A direct-mapped table of fixed size; a new word takes the place of the old one. Not thread-safe.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 22;
  static constexpr size_t kMaxIds = 10;

  WordCache() : entries_(kEntries) {}

  struct Entry {
    uint8_t n_bytes = 0;  // 0: empty
    uint8_t n_ids = 0;
    std::array<char, kMaxWordBytes> bytes{};
    std::array<int32_t, kMaxIds> ids{};
  };
  static_assert(sizeof(Entry) == 64, "one cache line");

  /// The slot for `word`, of 1..kMaxWordBytes bytes.
  Entry& slot(std::string_view word);
  static bool holds(const Entry& entry, std::string_view word);
  /// `ids.size()` <= kMaxIds.
  static void store(Entry& entry, std::string_view word, std::span<const int32_t> ids);

 private:
  static constexpr size_t kEntries = size_t{1} << 15;
  std::vector<Entry> entries_;
};

/// Caches to borrow, so that any number of threads encode at once without sharing one. Thread-safe.
class WordCachePool {
 public:
  class Loan {
   public:
    explicit Loan(WordCachePool& pool);
    ~Loan();
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    WordCache& operator*() const noexcept { return *cache_; }

   private:
    WordCachePool& pool_;
    std::unique_ptr<WordCache> cache_;
  };

 private:
  static constexpr size_t kMaxKept = 64;
  std::mutex mutex_;
  std::vector<std::unique_ptr<WordCache>> idle_;
};

}  // namespace d2q
