#include "engine/sequence.h"

#include <algorithm>

#include "base/error.h"

namespace d2q {
namespace {

// Prompts go through the model in pieces of this many tokens, which bounds the activations' memory.
constexpr size_t kPromptChunk = 512;

class TransformerSequence final : public Sequence {
 public:
  TransformerSequence(Device& device, Transformer& transformer, int64_t capacity, CacheType cache)
      : device_(device),
        transformer_(transformer),
        cache_(device, transformer.config(), capacity, cache),
        logits_(static_cast<size_t>(transformer.config().vocab_size)) {
    tokens_.reserve(static_cast<size_t>(capacity));
  }

  int64_t capacity() const override { return cache_.capacity(); }
  std::span<const int32_t> tokens() const override { return tokens_; }

  void truncate(int64_t length) override {
    D2Q_CHECK(length >= 0 && length <= static_cast<int64_t>(tokens_.size()),
              "truncate {} tokens to {}", tokens_.size(), length);
    cache_.truncate(length);
    tokens_.resize(static_cast<size_t>(length));
  }

  std::span<const float> append(std::span<const int32_t> ids) override {
    D2Q_CHECK(!ids.empty() && static_cast<int64_t>(tokens_.size() + ids.size()) <= capacity(),
              "append {} tokens to {} of {}", ids.size(), tokens_.size(), capacity());
    for (const int32_t id : ids) {
      if (id < 0 || id >= transformer_.config().vocab_size) {
        fail(ErrorCode::kInvalidArgument,
             "token {} is outside the model's vocabulary of {}; a tokenizer of another model?", id,
             transformer_.config().vocab_size);
      }
    }
    Tensor last;
    for (size_t begin = 0; begin < ids.size(); begin += kPromptChunk) {
      last = transformer_.decode(ids.subspan(begin, std::min(kPromptChunk, ids.size() - begin)),
                                 cache_);
    }
    device_.download(last, logits_.data());
    tokens_.insert(tokens_.end(), ids.begin(), ids.end());
    return logits_;
  }

 private:
  Device& device_;
  Transformer& transformer_;
  KvCache cache_;
  std::vector<int32_t> tokens_;
  std::vector<float> logits_;
};

}  // namespace

std::unique_ptr<Sequence> make_sequence(Device& device, Transformer& transformer, int64_t capacity,
                                        CacheType cache) {
  return std::make_unique<TransformerSequence>(device, transformer, capacity, cache);
}

}  // namespace d2q
