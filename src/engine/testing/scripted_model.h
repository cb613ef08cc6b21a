// Test support, included by tests only: a model that says what it is told to, one token a byte.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sequence.h"
#include "text/tokenizer.h"

namespace d2q::testing {

inline constexpr int32_t kVocabulary = 256;

/// One token a byte.
class ByteTokenizer final : public Tokenizer {
 public:
  int32_t vocab_size() const override { return kVocabulary; }
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string token_bytes(int32_t id, bool) const override { return {static_cast<char>(id)}; }
  std::string decode(std::span<const int32_t> ids, bool special) const override {
    std::string text;
    for (const int32_t id : ids) text += token_bytes(id, special);
    return text;
  }
  std::optional<int32_t> find_token(std::string_view) const override { return std::nullopt; }
};

/// Says the next byte of a script, counted from the position in the sequence.
class ScriptedSequence final : public Sequence {
 public:
  ScriptedSequence(std::string script, int64_t capacity)
      : script_(std::move(script)), capacity_(capacity) {}
  int64_t capacity() const override { return capacity_; }
  std::span<const int32_t> tokens() const override { return tokens_; }
  void truncate(int64_t length) override { tokens_.resize(static_cast<size_t>(length)); }
  std::span<const float> append(std::span<const int32_t> ids) override {
    appended += static_cast<int64_t>(ids.size());
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    logits_.assign(kVocabulary, 0.0f);
    logits_[static_cast<unsigned char>(script_.at(tokens_.size()))] = 10.0f;
    return logits_;
  }
  int64_t appended = 0;

 private:
  std::string script_;
  int64_t capacity_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
};

}  // namespace d2q::testing
