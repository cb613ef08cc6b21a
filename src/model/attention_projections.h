// Queries, keys and values of a block, shared by the stages (whole sequences) and decoding (a
// cache).
#pragma once

#include <cstdint>
#include <span>

#include "model/block.h"

namespace d2q {

/// Rotated queries, rotated keys and values, f32: [T, n_heads*head_dim] and twice
/// [T, n_kv_heads*head_dim].
struct AttentionProjections {
  Tensor q, k, v;
  Tensor plain_q, plain_k;  // before the per-head norms; empty in families without them
};

/// From h [T, hidden]; row t stands at positions[t].
AttentionProjections project_attention(Device& device, const ModelConfig& config,
                                       const RopeTables& rope, const BlockWeights& w,
                                       const Tensor& h, std::span<const int32_t> positions,
                                       DType products);

/// The shape of attention over sequences of `sequence_length` new tokens after `past_length` old
/// ones.
AttentionShape attention_shape(const ModelConfig& config, int64_t sequence_length,
                               int64_t past_length);

}  // namespace d2q
