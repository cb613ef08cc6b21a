// Token strings by id and ids by token string. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace d2q {

inline constexpr int64_t kMaxVocabulary = int64_t{1} << 20;
inline constexpr size_t kMaxTokenBytes = size_t{1} << 16;

class Vocabulary {
 public:
  struct Entry {
    std::string token;
    int32_t id = 0;
  };

  /// Ids may leave gaps. When a string occurs twice, `find` gives the later entry's id. Throws
  /// Error{kCorrupt}, naming `source`, on an id used twice, an id outside [0, kMaxVocabulary), a
  /// token longer than kMaxTokenBytes or not valid UTF-8.
  Vocabulary(std::vector<Entry> entries, std::string_view source);
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  /// Largest id + 1.
  int32_t size() const noexcept { return static_cast<int32_t>(tokens_.size()); }
  std::optional<int32_t> find(std::string_view token) const;
  /// nullptr for an id without a token.
  const std::string* token(int32_t id) const;

 private:
  std::vector<std::string> tokens_;
  std::vector<bool> present_;
  std::unordered_map<std::string_view, int32_t> ids_;  // views into tokens_
};

}  // namespace d2q
