// A tokenizer of one token a byte, for tests.
#pragma once

#include "text/tokenizer.h"

namespace d2q::test {

/// Ids are bytes modulo `vocab_size`, plus `offset`.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(int32_t vocab_size, int32_t offset = 0)
      : vocab_size_(vocab_size), offset_(offset) {}
  int32_t vocab_size() const override { return vocab_size_; }
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (const char byte : text)
      ids.push_back((static_cast<unsigned char>(byte) + offset_) % vocab_size_);
    return ids;
  }
  std::string token_bytes(int32_t, bool) const override { return "x"; }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    return std::string(ids.size(), 'x');
  }
  std::optional<int32_t> find_token(std::string_view) const override { return std::nullopt; }

 private:
  int32_t vocab_size_;
  int32_t offset_;
};

}  // namespace d2q::test
