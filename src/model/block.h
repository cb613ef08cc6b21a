// One decoder block, cut at the inputs of its linears so that quantization can watch each of them.
//
//   x ── attention_norm ── h ── q,k,v, rope, attention ── a ── o ──(+x)── x
//   x ── mlp_norm ── h ── act(gate) ⊙ up ── m ── down ──(+x)── x
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "kernels/device.h"
#include "model/config.h"
#include "model/weight_source.h"

namespace d2q {

/// y[T, out] f32 = linear(x). `products`: precision of the expanded panels of packed codes.
void apply(Device& device, const Linear& linear, const Tensor& x, const Tensor& y, DType products);

/// A linear and where its output goes.
struct LinearOutput {
  const Linear& linear;
  const Tensor& y;
};

/// apply() for linears that share their input, at once where the device can.
void apply_all(Device& device, std::span<const LinearOutput> outputs, const Tensor& x,
               DType products);

struct BlockWeights {
  NormParams attention_norm;
  Linear q, k, v, o;
  std::optional<NormParams> q_norm, k_norm;  // per head (Qwen3)
  NormParams mlp_norm;
  Linear gate, up, down;  // gate is empty in ungated families
};

/// cos and sin for positions [0, n), [n, rotated()/2] f32, scaled as the config says; empty in
/// families that learn positions.
struct RopeTables {
  Tensor cos;
  Tensor sin;
};
RopeTables make_rope_tables(Device& device, const ModelConfig& config, int64_t n_positions);

/// What the linears of a block read, in the order in which they come; h and h2 may be one tensor.
struct LinearInputs {
  Tensor h;   // [T, hidden], of q, k, v
  Tensor a;   // [T, n_heads*head_dim], of o
  Tensor h2;  // [T, hidden], of gate and up
  Tensor m;   // [T, intermediate], of down
};

/// The stages of a block on whole sequences, without a cache. Stateless; x is f32 [T, hidden] with
/// T = n_sequences * sequence_length; h, a, m have the dtype of the tensor passed in.
class BlockStages {
 public:
  BlockStages(Device& device, const ModelConfig& config, const RopeTables& rope, DType products)
      : device_(device), config_(config), rope_(rope), products_(products) {}

  /// h = attention_norm(x), [T, hidden].
  void attention_input(const BlockWeights& w, const Tensor& x, const Tensor& h) const;
  /// a = attention(q(h), k(h), v(h)), [T, n_heads*head_dim]: the input of o_proj.
  void attention(const BlockWeights& w, const Tensor& h, int64_t sequence_length,
                 const Tensor& a) const;
  /// x += o(a).
  void attention_output(const BlockWeights& w, const Tensor& a, const Tensor& x) const;
  /// h = mlp_norm(x), [T, hidden].
  void mlp_input(const BlockWeights& w, const Tensor& x, const Tensor& h) const;
  /// m = act(gate(h)) ⊙ up(h), [T, intermediate]: the input of down_proj.
  void mlp(const BlockWeights& w, const Tensor& h, const Tensor& m) const;
  /// x += down(m).
  void mlp_output(const BlockWeights& w, const Tensor& m, const Tensor& x) const;
  /// All of them: x becomes the block's output, `inputs` are written on the way.
  void forward(const BlockWeights& w, const Tensor& x, int64_t sequence_length,
               const LinearInputs& inputs) const;

 private:
  Device& device_;
  const ModelConfig& config_;
  const RopeTables& rope_;
  DType products_;
};

/// Loads block `layer`: dense weights converted to `dense_dtype` (kF32 or kBF16), packed ones left
/// packed.
BlockWeights load_block(Device& device, const WeightSource& source, int64_t layer,
                        DType dense_dtype);

/// The same block with its dense linears in `dtype`; shares what is in it already.
BlockWeights in_dtype(Device& device, BlockWeights weights, DType dtype);

/// HF names of the linears of a block, e.g. linear_name(3, "down_proj") =
/// "model.layers.3.mlp.down_proj".
std::string linear_name(const ModelConfig& config, int64_t layer, const std::string& projection);

}  // namespace d2q
