#include "kernels/cpu/decode.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class CpuDecode final : public DecodeOps {
 public:
  explicit CpuDecode(Device& device) : device_(device) {}

  bool is_faster(const AttentionShape&) const override { return false; }
  void together(const std::function<void()>& operations) override { operations(); }

  void embed(const Tensor& tokens, const Linear& table, const Tensor& y) override {
    check_decode_embed(tokens, table, y);
    for (int64_t b = 0; b < y.rows(); ++b) {
      const int32_t token = tokens.data<int32_t>()[b];
      const Tensor row = y.row_range(b, 1);
      if (token < 0 || token >= table.rows()) {
        std::fill_n(row.data<float>(), row.cols(), kNaN);
      } else if (table.packed) {
        device_.embed_packed(std::span(&token, 1), *table.packed, row);
      } else {
        device_.convert(table.dense.row_range(token, 1), row);
      }
    }
  }

  void project(const Tensor& x, const NormParams* norm, std::span<const Linear* const> linears,
               const Tensor& y, DType products) override {
    check_projections(x, linears, y);
    const Tensor input = normed(x, norm);
    int64_t column = 0;
    for (const Linear* linear : linears) {
      if (linears.size() == 1) {
        multiply(input, *linear, y, products);
        return;
      }
      const Tensor part = device_.allocate(x.rows(), linear->rows(), DType::kF32);
      multiply(input, *linear, part, products);
      for (int64_t row = 0; row < x.rows(); ++row) {
        std::copy_n(part.data<float>() + row * part.cols(), part.cols(),
                    y.data<float>() + row * y.cols() + column);
      }
      column += part.cols();
    }
  }

  void add_projection(const Tensor& x, const Linear& linear, const Tensor& y,
                      DType products) override {
    const Tensor sum = device_.allocate(y.rows(), y.cols(), DType::kF32);
    multiply(x, linear, sum, products);
    device_.add(y, sum);
  }

  void project_gated(const Tensor& x, const NormParams& norm, const Linear& gate, const Linear& up,
                     Activation act, const Tensor& y, DType products) override {
    const Tensor input = normed(x, &norm);
    const Tensor up_part = device_.allocate(y.rows(), y.cols(), DType::kF32);
    multiply(input, up, up_part, products);
    if (gate.rows() == 0) {
      device_.activation(act, up_part, y);
      return;
    }
    const Tensor gate_part = device_.allocate(y.rows(), y.cols(), DType::kF32);
    multiply(input, gate, gate_part, products);
    device_.gated_activation(act, gate_part, up_part, y);
  }

  void attend(const Tensor& projections, const Tensor& positions, const AttentionShape& shape,
              const DecodeAttention& attention, const Tensor& keys, const Tensor& values,
              const Tensor& y) override {
    check_decode_attention(projections, positions, shape, attention, keys, values, y);
    const int64_t capacity = keys.rows() / y.rows();
    const int64_t width = shape.n_heads * shape.head_dim;
    const int64_t kv_width = shape.n_kv_heads * shape.head_dim;
    for (int64_t b = 0; b < y.rows(); ++b) {
      const int32_t position = positions.data<int32_t>()[b];
      const Tensor result = y.row_range(b, 1);
      if (position < 0 || position >= capacity) {
        std::fill_n(result.data<float>(), width, kNaN);
        continue;
      }
      D2Q_CHECK(position < attention.cos.rows(), "position {} of {}", position,
                attention.cos.rows());
      const Tensor row = projections.row_range(b, 1);
      // q, k and v lie one after another.
      const Tensor heads = row.reshape(shape.n_heads + 2 * shape.n_kv_heads, shape.head_dim);
      const Tensor q =
          rotated(heads.row_range(0, shape.n_heads), attention.q_norm, position, attention);
      const Tensor k = rotated(heads.row_range(shape.n_heads, shape.n_kv_heads), attention.k_norm,
                               position, attention);
      const Tensor v =
          heads.row_range(shape.n_heads + shape.n_kv_heads, shape.n_kv_heads).reshape(1, kv_width);
      const Tensor own_keys = keys.row_range(b * capacity, position + 1);
      const Tensor own_values = values.row_range(b * capacity, position + 1);
      device_.store_cache(k, shape.head_dim, own_keys.row_range(position, 1));
      device_.store_cache(v, shape.head_dim, own_values.row_range(position, 1));
      AttentionShape one = shape;
      one.sequence_length = 1;
      one.past_length = position;
      device_.attention(q, own_keys, own_values, one, result, DType::kF32);
    }
  }

  void choose_most_likely(const Tensor& logits, const Tensor& tokens) override {
    D2Q_CHECK(tokens.size() == logits.rows(), "{} tokens for {} rows", tokens.size(),
              logits.rows());
    for (int64_t b = 0; b < logits.rows(); ++b) {
      const float* row = logits.data<float>() + b * logits.cols();
      int32_t best = 0;
      float largest = -std::numeric_limits<float>::infinity();
      for (int64_t i = 0; i < logits.cols(); ++i) {
        if (row[i] > largest) largest = row[i], best = static_cast<int32_t>(i);
      }
      tokens.data<int32_t>()[b] = best;
    }
  }

  void advance(const Tensor& positions) override {
    for (int64_t b = 0; b < positions.size(); ++b) ++positions.data<int32_t>()[b];
  }

 private:
  Tensor normed(const Tensor& x, const NormParams* norm) {
    if (norm == nullptr) return x;
    const Tensor y = device_.allocate(x.rows(), x.cols(), DType::kF32);
    device_.norm(x, *norm, y);
    return y;
  }

  void multiply(const Tensor& x, const Linear& linear, const Tensor& y, DType products) {
    if (linear.packed) {
      device_.packed_linear(x, *linear.packed, linear.bias, y, products);
    } else {
      device_.linear(x, linear.dense, linear.bias, y);
    }
  }

  /// A copy of heads [n, head_dim], normalised and rotated, as [1, n * head_dim].
  Tensor rotated(const Tensor& heads, const NormParams* norm, int32_t position,
                 const DecodeAttention& attention) {
    const Tensor result = device_.allocate(heads.rows(), heads.cols(), DType::kF32);
    if (norm != nullptr) {
      device_.norm(heads, *norm, result);
    } else {
      device_.convert(heads, result);
    }
    const Tensor row = result.reshape(1, result.size());
    device_.rope(row, heads.rows(), std::span(&position, 1), attention.cos, attention.sin);
    return row;
  }

  Device& device_;
};

}  // namespace

std::unique_ptr<DecodeOps> make_cpu_decode(Device& device) {
  return std::make_unique<CpuDecode>(device);
}

}  // namespace d2q
