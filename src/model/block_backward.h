// The gradients of one dense block on whole sequences (METHOD.md §9): a forward that keeps what the
// backward reads, and the backward. T = n_sequences * sequence_length rows; d_x stands for the
// derivative of one scalar loss by x.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "kernels/gradient_ops.h"
#include "model/attention_projections.h"
#include "model/block.h"

namespace d2q {

enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };

/// A block's linears; names are those that linear_name() takes.
struct BlockLinear {
  Projection projection;
  const char* name;
  Linear BlockWeights::*member;  // gate is empty in ungated families
};
inline constexpr std::array kBlockLinears = {
    BlockLinear{Projection::kQ, "q_proj", &BlockWeights::q},
    BlockLinear{Projection::kK, "k_proj", &BlockWeights::k},
    BlockLinear{Projection::kV, "v_proj", &BlockWeights::v},
    BlockLinear{Projection::kO, "o_proj", &BlockWeights::o},
    BlockLinear{Projection::kGate, "gate_proj", &BlockWeights::gate},
    BlockLinear{Projection::kUp, "up_proj", &BlockWeights::up},
    BlockLinear{Projection::kDown, "down_proj", &BlockWeights::down},
};
constexpr const BlockLinear& block_linear(Projection projection) {
  return kBlockLinears[static_cast<size_t>(projection)];
}

/// What the backward reads, f32 unless said.
struct BlockActivations {
  Tensor x;                        // [T, hidden], the block's input (the caller's own)
  Tensor h;                        // [T, hidden] attention_norm(x), in the dtype of the products
  AttentionProjections attention;  // q, k, v
  Tensor a;                        // [T, n_heads*head_dim], in the dtype of the products
  Tensor x2;                       // [T, hidden] x + o(a)
  Tensor h2;                       // [T, hidden] mlp_norm(x2), in the dtype of the products
  Tensor gate;                     // [T, intermediate]; empty in ungated families
  Tensor up;                       // [T, intermediate]
  Tensor m;                        // [T, intermediate], in the dtype of the products
  Tensor y;                        // [T, hidden] x2 + down(m), the block's output
};

/// d_gain and d_shift of a norm, [1, n] f32 both; what they hold is added to.
struct NormGradient {
  Tensor gain;
  Tensor shift;
};

/// Where the gradients go.
struct BlockGradients {
  NormGradient attention_norm;
  NormGradient mlp_norm;
  /// Whether a linear's gradients are wanted at all.
  std::function<bool(Projection)> wants;
  /// Takes d_weight [out, in] and d_bias [1, out] (empty without a bias) of one linear at a time.
  /// They are overwritten once it returns, so that no block's worth of them is ever held. The
  /// linear's own weight is not read any more by then.
  std::function<void(Projection, const Tensor& d_weight, const Tensor& d_bias)> take;
};

/// Forward and backward of blocks over one kind of sequences. The weights are dense, f32 or bf16 as
/// `products` says.
class BlockBackward {
 public:
  BlockBackward(Device& device, const ModelConfig& config, const RopeTables& rope, DType products,
                int64_t sequence_length)
      : device_(device),
        config_(config),
        rope_(rope),
        products_(products),
        sequence_length_(sequence_length) {}

  /// y and everything on the way to it; about T·(2·hidden + 3·attention + 3·intermediate) numbers.
  BlockActivations forward(const BlockWeights& w, const Tensor& x) const;
  /// `gradient` [T, hidden] f32 is d_y on entry and d_x on return. `activations` are forward()'s
  /// under the same weights.
  void backward(const BlockWeights& w, const BlockActivations& activations, const Tensor& gradient,
                const BlockGradients& gradients) const;

 private:
  struct Pass;
  Tensor allocate(const Tensor& like, int64_t cols) const;
  std::vector<int32_t> positions(int64_t rows) const;
  void mlp(const Pass& pass, const Tensor& gradient) const;
  void attention(const Pass& pass, const Tensor& gradient) const;
  Tensor head_norm(const std::optional<NormParams>& norm, const Tensor& plain,
                   const Tensor& d_y) const;
  void linear(const Pass& pass, Projection projection, const Tensor& x, const Tensor& d_y,
              const Tensor& d_x, bool accumulate) const;

  Device& device_;
  const ModelConfig& config_;
  const RopeTables& rope_;
  DType products_;
  int64_t sequence_length_;
};

}  // namespace d2q
