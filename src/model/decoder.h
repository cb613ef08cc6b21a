// Decoding one token a step for a few sequences, each at its own position, with the whole step
// repeated on the device: tokens and positions stay in its memory, and nothing above waits for it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/decode_ops.h"
#include "model/block.h"

namespace d2q {

/// What a decoder reads; whoever owns it keeps it.
struct DecoderWeights {
  const ModelConfig* config = nullptr;
  Linear embedding;
  const std::vector<BlockWeights>* blocks = nullptr;
  const NormParams* final_norm = nullptr;
  const Linear* output = nullptr;
};

/// How keys and values are kept: as f16, or as 8-bit integers with a scale for each head of a
/// token.
enum class CacheType { kF16, kInt8 };

/// Keys and values of every layer: [n_sequences * capacity, n_kv_heads * head_dim] f16 each, or
/// rows of Device::store_cache() in 8 bits.
struct DecoderCache {
  int64_t n_sequences = 1;
  int64_t capacity = 0;
  std::vector<Tensor> keys;
  std::vector<Tensor> values;
};
/// Throws Error{kUnsupported} for kInt8 on a device without it.
DecoderCache make_decoder_cache(Device& device, const ModelConfig& config, int64_t n_sequences,
                                int64_t capacity, CacheType type = CacheType::kF16);

enum class DecodeStage {
  kEmbedding,
  kProjections,
  kAttention,
  kOutput,
  kMlp,
  kDown,
  kHead,
  kChoice
};
inline constexpr std::array kDecodeStages = {DecodeStage::kEmbedding, DecodeStage::kProjections,
                                             DecodeStage::kAttention, DecodeStage::kOutput,
                                             DecodeStage::kMlp,       DecodeStage::kDown,
                                             DecodeStage::kHead,      DecodeStage::kChoice};
/// "embedding", "q,k,v", ...
std::string_view to_string(DecodeStage stage);

class Decoder {
 public:
  /// Whether sequences of such a model can be decoded this way: rotary positions whose angles do
  /// not depend on the sequence's length.
  static bool supports(const ModelConfig& config);

  /// `cache` shares its tensors with the decoder. `products` as in Transformer.
  Decoder(Device& device, DecoderWeights weights, DecoderCache cache, DType products);

  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t n_sequences() const noexcept { return cache_.n_sequences; }
  int64_t capacity() const noexcept { return cache_.capacity; }

  /// The next tokens to read, one a sequence, and where they stand.
  void set(std::span<const int32_t> tokens, std::span<const int32_t> positions);
  /// Reads the tokens: logits() are those of what follows, the tokens become the most likely ones,
  /// and positions grow by one. Does not wait.
  void step();
  /// [n_sequences, vocab_size] f32; the same tensor after every step.
  const Tensor& logits() const noexcept { return logits_; }
  /// What set() or the last step chose. Waits for the device.
  std::vector<int32_t> tokens();

  /// One stage of a step, for all layers, to be timed by itself.
  std::unique_ptr<Repeatable> stage(DecodeStage stage);

 private:
  void run(DecodeStage stage, size_t layer);

  Device& device_;
  DecodeOps& ops_;
  DecoderWeights weights_;
  DecoderCache cache_;
  DType products_;
  RopeTables rope_;
  AttentionShape shape_;
  Tensor tokens_, positions_;  // [1, n_sequences] i32
  Tensor x_, projections_, attention_, mlp_, logits_;
  std::unique_ptr<Repeatable> step_;
};

}  // namespace d2q
