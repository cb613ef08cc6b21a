#include "model/block_backward.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/error.h"

namespace d2q {

/// One backward and the room that its linears' gradients share.
struct BlockBackward::Pass {
  const BlockWeights& w;
  const BlockActivations& activations;
  const BlockGradients& gradients;
  Tensor weight_gradient;  // [largest wanted linear, 1]
};

Tensor BlockBackward::allocate(const Tensor& like, int64_t cols) const {
  return device_.allocate(like.rows(), cols, DType::kF32);
}

std::vector<int32_t> BlockBackward::positions(int64_t rows) const {
  D2Q_CHECK(sequence_length_ > 0 && rows % sequence_length_ == 0, "{} rows in sequences of {}",
            rows, sequence_length_);
  std::vector<int32_t> result(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row)
    result[static_cast<size_t>(row)] = static_cast<int32_t>(row % sequence_length_);
  return result;
}

BlockActivations BlockBackward::forward(const BlockWeights& w, const Tensor& x) const {
  const int64_t hidden = config_.hidden_size;
  const int64_t intermediate = config_.intermediate_size;
  const auto rounded = [&](int64_t cols) { return device_.allocate(x.rows(), cols, products_); };
  BlockActivations result;
  result.x = x;
  result.h = rounded(hidden);
  device_.norm(x, w.attention_norm, result.h);
  result.attention =
      project_attention(device_, config_, rope_, w, result.h, positions(x.rows()), products_);
  result.a = rounded(config_.n_heads * config_.head_dim);
  device_.attention(result.attention.q, result.attention.k, result.attention.v,
                    attention_shape(config_, sequence_length_, 0), result.a, products_);
  result.x2 = allocate(x, hidden);
  apply(device_, w.o, result.a, result.x2, products_);
  device_.add(result.x2, x);
  result.h2 = rounded(hidden);
  device_.norm(result.x2, w.mlp_norm, result.h2);
  result.up = allocate(x, intermediate);
  apply(device_, w.up, result.h2, result.up, products_);
  result.m = rounded(intermediate);
  if (w.gate.dense.empty()) {
    device_.activation(config_.activation, result.up, result.m);
  } else {
    result.gate = allocate(x, intermediate);
    apply(device_, w.gate, result.h2, result.gate, products_);
    device_.gated_activation(config_.activation, result.gate, result.up, result.m);
  }
  result.y = allocate(x, hidden);
  apply(device_, w.down, result.m, result.y, products_);
  device_.add(result.y, result.x2);
  return result;
}

/// d_x from d_y through one linear, after its own gradients where they are wanted.
void BlockBackward::linear(const Pass& pass, Projection projection, const Tensor& x,
                           const Tensor& d_y, const Tensor& d_x, bool accumulate) const {
  GradientOps& ops = device_.gradients();
  const Linear& linear = pass.w.*block_linear(projection).member;
  const Tensor& weight = linear.dense;
  ops.linear_input(d_y, weight, d_x, accumulate);
  if (!pass.gradients.wants(projection)) return;
  const Tensor d_weight =
      pass.weight_gradient.row_range(0, weight.size()).reshape(weight.rows(), weight.cols());
  ops.linear_weight(d_y, x, d_weight);
  Tensor d_bias;
  if (!linear.bias.empty()) {
    d_bias = device_.allocate(1, weight.rows(), DType::kF32);
    device_.fill_zero(d_bias);
    ops.column_sums(d_y, d_bias);
  }
  pass.gradients.take(projection, d_weight, d_bias);
}

/// x2 + down(act(gate(h2)) ⊙ up(h2)) with h2 = mlp_norm(x2): d_y becomes d_x2.
void BlockBackward::mlp(const Pass& pass, const Tensor& gradient) const {
  GradientOps& ops = device_.gradients();
  const BlockActivations& forward = pass.activations;
  const int64_t intermediate = config_.intermediate_size;
  const Tensor d_h2 = allocate(gradient, config_.hidden_size);
  const Tensor d_up = allocate(gradient, intermediate);
  Tensor d_gate;
  {
    const Tensor d_m = allocate(gradient, intermediate);
    linear(pass, Projection::kDown, forward.m, gradient, d_m, false);
    if (forward.gate.empty()) {
      ops.activation(config_.activation, forward.up, d_m, d_up);
    } else {
      d_gate = allocate(gradient, intermediate);
      ops.gated_activation(config_.activation, forward.gate, forward.up, d_m, d_gate, d_up);
    }
  }
  linear(pass, Projection::kUp, forward.h2, d_up, d_h2, false);
  if (!d_gate.empty()) linear(pass, Projection::kGate, forward.h2, d_gate, d_h2, true);
  // The residual's part of d_x2 is d_y itself.
  ops.norm(forward.x2, pass.w.mlp_norm, d_h2, gradient, pass.gradients.mlp_norm.gain,
           pass.gradients.mlp_norm.shift);
}

/// d_plain from d_y of a norm on each head; d_y itself where the family has none.
Tensor BlockBackward::head_norm(const std::optional<NormParams>& norm, const Tensor& plain,
                                const Tensor& d_y) const {
  if (!norm) return d_y;
  const int64_t head_dim = config_.head_dim;
  const int64_t rows = d_y.size() / head_dim;
  const Tensor d_plain = device_.allocate(d_y.rows(), d_y.cols(), DType::kF32);
  device_.fill_zero(d_plain);
  // The gains of queries and keys are not tuned.
  const Tensor d_gain = device_.allocate(1, head_dim, DType::kF32);
  const Tensor d_shift = device_.allocate(1, head_dim, DType::kF32);
  device_.fill_zero(d_gain);
  device_.fill_zero(d_shift);
  device_.gradients().norm(plain.reshape(rows, head_dim), *norm, d_y.reshape(rows, head_dim),
                           d_plain.reshape(rows, head_dim), d_gain, d_shift);
  return d_plain;
}

/// x + o(attention(h)) with h = attention_norm(x): d_x2 becomes d_x.
void BlockBackward::attention(const Pass& pass, const Tensor& gradient) const {
  GradientOps& ops = device_.gradients();
  const BlockActivations& forward = pass.activations;
  const AttentionProjections& qkv = forward.attention;
  const int64_t q_width = config_.n_heads * config_.head_dim;
  const int64_t kv_width = config_.n_kv_heads * config_.head_dim;
  Tensor d_q = allocate(gradient, q_width);
  Tensor d_k = allocate(gradient, kv_width);
  const Tensor d_v = allocate(gradient, kv_width);
  {
    const Tensor d_a = allocate(gradient, q_width);
    linear(pass, Projection::kO, forward.a, gradient, d_a, false);
    ops.attention(qkv.q, qkv.k, qkv.v, forward.a, d_a,
                  attention_shape(config_, sequence_length_, 0), d_q, d_k, d_v, products_);
  }
  if (!rope_.cos.empty()) {
    const std::vector<int32_t> rows = positions(gradient.rows());
    ops.rope(d_q, config_.n_heads, rows, rope_.cos, rope_.sin);
    ops.rope(d_k, config_.n_kv_heads, rows, rope_.cos, rope_.sin);
  }
  d_q = head_norm(pass.w.q_norm, qkv.plain_q, d_q);
  d_k = head_norm(pass.w.k_norm, qkv.plain_k, d_k);
  const Tensor d_h = allocate(gradient, config_.hidden_size);
  linear(pass, Projection::kQ, forward.h, d_q, d_h, false);
  linear(pass, Projection::kK, forward.h, d_k, d_h, true);
  linear(pass, Projection::kV, forward.h, d_v, d_h, true);
  ops.norm(forward.x, pass.w.attention_norm, d_h, gradient, pass.gradients.attention_norm.gain,
           pass.gradients.attention_norm.shift);
}

void BlockBackward::backward(const BlockWeights& w, const BlockActivations& activations,
                             const Tensor& gradient, const BlockGradients& gradients) const {
  int64_t largest = 0;
  for (const BlockLinear& linear : kBlockLinears) {
    if (gradients.wants(linear.projection))
      largest = std::max(largest, (w.*linear.member).dense.size());
  }
  const Pass pass{w, activations, gradients, device_.allocate(largest, 1, DType::kF32)};
  mlp(pass, gradient);
  attention(pass, gradient);
}

}  // namespace d2q
