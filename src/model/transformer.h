// A whole decoder ready to run: blocks (dense or packed), embedding, final norm, head, kv cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/block.h"
#include "model/decoder.h"

namespace d2q {

/// Keys and values of one sequence, every layer. f16: 2·n_layers·n_kv_heads·head_dim·2 bytes a
/// token; int8: 2·n_layers·n_kv_heads·(head_dim + 4).
class KvCache {
 public:
  KvCache(Device& device, const ModelConfig& config, int64_t capacity,
          CacheType type = CacheType::kF16);
  int64_t length() const noexcept { return length_; }
  int64_t capacity() const noexcept { return layers_.capacity; }
  /// Forgets all tokens from `length` on (prefix reuse).
  void truncate(int64_t length);

 private:
  friend class Transformer;
  DecoderCache layers_;
  int64_t length_ = 0;
  std::unique_ptr<Decoder> decoder_;  // made at the first token decoded by itself
};

/// Keys and values of sequences of one length, every layer, that other sequences continue: what a
/// shared beginning is computed once for. f32, so that a continuation gets what the whole sequence
/// would: 2·n_layers·n_kv_heads·head_dim·4 bytes a token.
class PrefixStates {
 public:
  int64_t count() const noexcept { return count_; }
  int64_t length() const noexcept { return length_; }

 private:
  friend class Transformer;
  int64_t count_ = 0;
  int64_t length_ = 0;
  std::vector<Tensor> keys_;  // a layer: [count * length, n_kv_heads*head_dim] f32
  std::vector<Tensor> values_;
};

/// Where a transformer's blocks are between two passes.
enum class BlockResidency {
  kLoaded,    // in the device's memory
  kStreamed,  // in the files: each pass loads a block after the other, so that memory holds one;
              // without decoding in steps
};

class Transformer {
 public:
  /// `products` kF32: logits equal an f32 reference to 1e-4; kBF16: dense weights are held in bf16
  /// and products run in bf16 with f32 sums (about twice as fast where the machine has them).
  Transformer(Device& device, std::shared_ptr<const WeightSource> source, DType products,
              BlockResidency residency = BlockResidency::kLoaded);
  ~Transformer();

  const ModelConfig& config() const noexcept;
  /// Weights of the blocks' linears.
  int64_t block_weights() const noexcept;

  /// Logits of every position of n equal-length sequences packed one after another:
  /// [ids.size(), vocab_size] f32. No cache.
  Tensor forward(std::span<const int32_t> ids, int64_t sequence_length);
  /// The same without the head: the final norm's output, [T, hidden].
  Tensor forward_hidden(std::span<const int32_t> ids, int64_t sequence_length);
  /// Runs sequences of `length` tokens, packed one after another and all at once, for others to
  /// continue.
  PrefixStates run_prefixes(std::span<const int32_t> ids, int64_t length);
  /// forward_hidden() of sequences that continue `prefixes`, all at once: sequence i follows prefix
  /// parents[i]. Bound ids.size() and parents.size() * (prefixes.length() + sequence_length).
  Tensor forward_hidden(std::span<const int32_t> ids, int64_t sequence_length,
                        const PrefixStates& prefixes, std::span<const int32_t> parents);
  /// y = head(hidden): [T, vocab_size]. Call in slices to bound memory.
  void head(const Tensor& hidden, const Tensor& logits);
  /// A decoder of several sequences at once, on tensors of make_decoder_cache(). The transformer
  /// outlives it.
  std::unique_ptr<Decoder> make_decoder(DecoderCache cache);
  /// Bytes that a decoding step reads of the weights.
  int64_t decoded_bytes() const;
  /// Appends `ids` to the cache and returns the logits of the last token, [1, vocab_size], valid
  /// until the next call. The transformer outlives the cache.
  Tensor decode(std::span<const int32_t> ids, KvCache& cache);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2q
