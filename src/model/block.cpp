#include "model/block.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "model/attention_projections.h"

namespace d2q {
namespace {

/// body(begin, count) over slices of `rows` that are multiples of `unit`: a stage holds a few
/// [slice, intermediate] matrices at once.
template <typename Body>
void for_slices(const Device& device, int64_t rows, int64_t unit, Body&& body) {
  const int64_t slice = std::max<int64_t>(1, device.chunk_tokens() / unit) * unit;
  for (int64_t begin = 0; begin < rows; begin += slice) body(begin, std::min(slice, rows - begin));
}

/// The same norm on each head of x [T, n_heads*head_dim]; returns its result.
Tensor norm_heads(Device& device, const NormParams& params, const Tensor& x, int64_t head_dim) {
  const int64_t rows = x.size() / head_dim;
  const Tensor y = device.allocate(x.rows(), x.cols(), DType::kF32);
  device.norm(x.reshape(rows, head_dim), params, y.reshape(rows, head_dim));
  return y;
}

}  // namespace

void apply(Device& device, const Linear& linear, const Tensor& x, const Tensor& y, DType products) {
  if (linear.packed) {
    device.packed_linear(x, *linear.packed, linear.bias, y, products);
  } else {
    device.linear(x, linear.dense, linear.bias, y);
  }
}

void apply_all(Device& device, std::span<const LinearOutput> outputs, const Tensor& x,
               DType products) {
  constexpr size_t kMost = 4;
  std::array<PackedProduct, kMost> packed;
  size_t n_packed = 0;
  for (const LinearOutput& output : outputs) {
    if (output.linear.packed && n_packed < kMost) {
      packed[n_packed++] = {&*output.linear.packed, &output.linear.bias, &output.y};
    } else {
      apply(device, output.linear, x, output.y, products);
    }
  }
  if (n_packed > 0) device.packed_linears(x, std::span(packed).first(n_packed), products);
}

AttentionProjections project_attention(Device& device, const ModelConfig& config,
                                       const RopeTables& rope, const BlockWeights& w,
                                       const Tensor& h, std::span<const int32_t> positions,
                                       DType products) {
  const int64_t q_width = config.n_heads * config.head_dim;
  const int64_t kv_width = config.n_kv_heads * config.head_dim;
  AttentionProjections result;
  result.q = device.allocate(h.rows(), q_width, DType::kF32);
  result.k = device.allocate(h.rows(), kv_width, DType::kF32);
  result.v = device.allocate(h.rows(), kv_width, DType::kF32);
  const LinearOutput outputs[] = {{w.q, result.q}, {w.k, result.k}, {w.v, result.v}};
  apply_all(device, outputs, h, products);
  const auto norm = [&](const std::optional<NormParams>& params, Tensor& x, Tensor& plain) {
    if (!params) return;
    plain = x;
    x = norm_heads(device, *params, plain, config.head_dim);
  };
  norm(w.q_norm, result.q, result.plain_q);
  norm(w.k_norm, result.k, result.plain_k);
  if (rope.cos.empty()) return result;  // positions were learned with the embedding
  device.rope(result.q, config.n_heads, positions, rope.cos, rope.sin);
  device.rope(result.k, config.n_kv_heads, positions, rope.cos, rope.sin);
  return result;
}

AttentionShape attention_shape(const ModelConfig& config, int64_t sequence_length,
                               int64_t past_length) {
  return {.n_heads = config.n_heads,
          .n_kv_heads = config.n_kv_heads,
          .head_dim = config.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim)),
          .sequence_length = sequence_length,
          .past_length = past_length,
          .window = config.sliding_window};
}

void BlockStages::attention_input(const BlockWeights& w, const Tensor& x, const Tensor& h) const {
  device_.norm(x, w.attention_norm, h);
}

void BlockStages::attention(const BlockWeights& w, const Tensor& h, int64_t sequence_length,
                            const Tensor& a) const {
  D2Q_CHECK(sequence_length > 0 && h.rows() % sequence_length == 0, "{} rows in sequences of {}",
            h.rows(), sequence_length);
  std::vector<int32_t> positions;
  for_slices(device_, h.rows(), sequence_length, [&](int64_t begin, int64_t count) {
    for (auto row = static_cast<int64_t>(positions.size()); row < count; ++row) {
      positions.push_back(static_cast<int32_t>(row % sequence_length));
    }
    const AttentionProjections p =
        project_attention(device_, config_, rope_, w, h.row_range(begin, count),
                          std::span(positions).first(static_cast<size_t>(count)), products_);
    device_.attention(p.q, p.k, p.v, attention_shape(config_, sequence_length, 0),
                      a.row_range(begin, count), products_);
  });
}

void BlockStages::attention_output(const BlockWeights& w, const Tensor& a, const Tensor& x) const {
  for_slices(device_, x.rows(), 1, [&](int64_t begin, int64_t count) {
    const Tensor y = device_.allocate(count, x.cols(), DType::kF32);
    apply(device_, w.o, a.row_range(begin, count), y, products_);
    device_.add(x.row_range(begin, count), y);
  });
}

void BlockStages::mlp_input(const BlockWeights& w, const Tensor& x, const Tensor& h) const {
  device_.norm(x, w.mlp_norm, h);
}

void BlockStages::mlp(const BlockWeights& w, const Tensor& h, const Tensor& m) const {
  const bool gated = w.gate.packed || !w.gate.dense.empty();
  for_slices(device_, h.rows(), 1, [&](int64_t begin, int64_t count) {
    const Tensor input = h.row_range(begin, count);
    const Tensor up = device_.allocate(count, m.cols(), DType::kF32);
    if (gated) {
      const Tensor gate = device_.allocate(count, m.cols(), DType::kF32);
      const LinearOutput outputs[] = {{w.gate, gate}, {w.up, up}};
      apply_all(device_, outputs, input, products_);
      device_.gated_activation(config_.activation, gate, up, m.row_range(begin, count));
    } else {
      apply(device_, w.up, input, up, products_);
      device_.activation(config_.activation, up, m.row_range(begin, count));
    }
  });
}

void BlockStages::mlp_output(const BlockWeights& w, const Tensor& m, const Tensor& x) const {
  for_slices(device_, x.rows(), 1, [&](int64_t begin, int64_t count) {
    const Tensor y = device_.allocate(count, x.cols(), DType::kF32);
    apply(device_, w.down, m.row_range(begin, count), y, products_);
    device_.add(x.row_range(begin, count), y);
  });
}

void BlockStages::forward(const BlockWeights& w, const Tensor& x, int64_t sequence_length,
                          const LinearInputs& inputs) const {
  attention_input(w, x, inputs.h);
  attention(w, inputs.h, sequence_length, inputs.a);
  attention_output(w, inputs.a, x);
  mlp_input(w, x, inputs.h2);
  mlp(w, inputs.h2, inputs.m);
  mlp_output(w, inputs.m, x);
}

}  // namespace d2q
