// What BlockQuantizer keeps of the block in hand. Included by its own sources only.
#pragma once

#include <functional>

#include "quant/block_quantizer.h"

namespace d2q {

/// The inputs of each linear of the block in hand for all tokens, in the dtype of the products. The
/// fp stream's come first; attention_result and mlp_hidden are then overwritten by the quantized
/// stream's, chunk by chunk, once their statistics are taken.
struct BlockQuantizer::Caches {
  TokenRows attention_input;   // [T, hidden]
  TokenRows attention_result;  // [T, n_heads * head_dim], the input of o_proj
  TokenRows mlp_input;         // [T, hidden]
  TokenRows mlp_hidden;        // [T, intermediate], the input of down_proj
  TokenRows teacher;           // [T, hidden], output of a norm of the uncorrected block
  TokenRows block_input;       // [T, hidden] f32, the quantized stream before a block that is tuned
  // One chunk of each.
  Tensor residual;   // [chunk, hidden] f32
  Tensor input;      // [chunk, hidden]
  Tensor attention;  // [chunk, n_heads * head_dim]
  Tensor hidden;     // [chunk, intermediate]
};

/// The block in hand.
struct BlockQuantizer::Pass {
  int64_t layer;
  const Streams& streams;
  const NormParams* final_norm;  // null before the last block
  const std::function<void(const StoredLinear&)>& on_linear;
  StageClock clock;
  BlockWeights exact;     // as prepared, f32; linears until they are solved
  BlockWeights fp;        // the same in the dtype of the products
  QuantizedBlock result;  // whose weights are fp's, but for what is solved by now
};

}  // namespace d2q
