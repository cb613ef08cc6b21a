// What a model makes of token ids before its first block.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/device.h"
#include "model/weight_source.h"

namespace d2q {

/// Rows of the embedding and, in families that learn positions, of their table. Copies share the
/// tables.
class InputEmbedding {
 public:
  InputEmbedding() = default;
  /// Tables in `dtype`: kF32, kBF16 or kF16; a packed embedding stays so where the device can.
  InputEmbedding(Device& device, const WeightSource& source, DType dtype);

  /// The same with tables rounded to `dtype`.
  InputEmbedding converted(Device& device, DType dtype) const;

  /// x [T, hidden] f32 of sequences of `sequence_length` tokens packed one after another, each
  /// beginning at position `first_position`. Throws Error{kInvalidArgument} when a sequence is
  /// longer than the learned positions.
  void embed(Device& device, std::span<const int32_t> ids, int64_t sequence_length,
             int64_t first_position, const Tensor& x) const;

  /// The same with another dense embedding [vocab, hidden].
  InputEmbedding with_tokens(const Tensor& tokens) const;

  /// [vocab, hidden]; empty where packed_tokens() is there.
  const Tensor& tokens() const noexcept { return tokens_; }
  const std::optional<PackedTensor>& packed_tokens() const noexcept { return packed_tokens_; }

 private:
  Tensor tokens_;
  std::optional<PackedTensor> packed_tokens_;
  Tensor positions_;  // [max_positions + position_offset, hidden] or empty
  int64_t position_offset_ = 0;
};

}  // namespace d2q
