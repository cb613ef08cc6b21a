// A growing sequence of tokens with the logits after its end: what the generate loop needs of a
// model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/transformer.h"

namespace d2q {

/// Used from one thread.
class Sequence {
 public:
  virtual ~Sequence() = default;
  /// Tokens that fit in all.
  virtual int64_t capacity() const = 0;
  /// The tokens that the model has seen.
  virtual std::span<const int32_t> tokens() const = 0;
  /// Forgets all tokens from `length` on.
  virtual void truncate(int64_t length) = 0;
  /// Appends `ids` (at least one; they must fit) and returns the logits of the next token,
  /// [vocab_size], valid until the next call. An id outside the vocabulary is
  /// Error{kInvalidArgument}.
  virtual std::span<const float> append(std::span<const int32_t> ids) = 0;
};

/// One sequence over a transformer's kv cache. Device and transformer outlive it.
std::unique_ptr<Sequence> make_sequence(Device& device, Transformer& transformer, int64_t capacity,
                                        CacheType cache = CacheType::kF16);

}  // namespace d2q
