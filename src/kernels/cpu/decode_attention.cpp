// Attention of one new token a sequence over its f16 or 8-bit cache, straight on the cache's rows.
// The keys are split in fixed pieces, so that all cores share a long context; the pieces' softmaxes
// are merged in order.
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/eight_bit_heads.h"

namespace d2q {
namespace {

constexpr int64_t kPieceKeys = 256;

/// Where the pieces leave their results: for each query head the sum of weighted values, relative
/// to the piece's own largest score.
struct Partial {
  float top;
  float sum;
};

/// Some keys and values of one key head and the queries that read them.
struct Piece {
  const ForwardKernels& kernels;
  const float* q;  // [group, head_dim]
  int64_t first_row;
  int64_t count;
  int64_t kv_head;
  int64_t group;
  int64_t head_dim;

  /// scores[group, count] = q keysᵀ.
  void score(const Tensor& keys, float* scores) const {
    if (keys.dtype() == DType::kF16) {
      kernels.score_keys(&keys.data<Half>()[first_row * keys.cols() + kv_head * head_dim].bits,
                         keys.cols(), count, q, group, head_dim, scores);
      return;
    }
    const uint8_t* heads = first_head(keys);
    kernels.score_byte_keys(reinterpret_cast<const int8_t*>(heads), keys.cols(), count, q, group,
                            head_dim, scores);
    scale_columns(heads, keys.cols(), scores);
  }

  /// out[group, head_dim] = weights values; the weights are lost.
  void weigh(const Tensor& values, float* weights, float* out) const {
    if (values.dtype() == DType::kF16) {
      kernels.weigh_values(
          &values.data<Half>()[first_row * values.cols() + kv_head * head_dim].bits, values.cols(),
          count, weights, group, head_dim, out);
      return;
    }
    const uint8_t* heads = first_head(values);
    scale_columns(heads, values.cols(), weights);
    kernels.weigh_byte_values(reinterpret_cast<const int8_t*>(heads), values.cols(), count, weights,
                              group, head_dim, out);
  }

 private:
  const uint8_t* first_head(const Tensor& rows) const {
    return rows.data<uint8_t>() + first_row * rows.cols() +
           kv_head * eight_bit_head_bytes(head_dim);
  }
  void scale_columns(const uint8_t* heads, int64_t stride, float* matrix) const {
    for (int64_t key = 0; key < count; ++key) {
      const float scale = eight_bit_scale(heads + key * stride, head_dim);
      for (int64_t j = 0; j < group; ++j) matrix[j * count + key] *= scale;
    }
  }
};

}  // namespace

bool runs_as_decode(const Tensor& k, const Tensor& v, const AttentionShape& shape,
                    const Tensor& y) {
  return shape.sequence_length == 1 && k.dtype() == v.dtype() &&
         (k.dtype() == DType::kF16 || k.dtype() == DType::kU8) && y.dtype() == DType::kF32;
}

void decode_attention_cpu(CpuContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionShape& shape, const Tensor& y) {
  const ForwardKernels& kernels = context.kernels;
  const int64_t head_dim = shape.head_dim, group = shape.n_heads / shape.n_kv_heads;
  const int64_t n_sequences = q.rows(), n_keys = shape.past_length + 1;
  const Visible visible = visible_keys(shape, shape.past_length);
  const int64_t n_pieces = (visible.last - visible.first + kPieceKeys - 1) / kPieceKeys;
  const int64_t n_rows = n_sequences * shape.n_heads;
  float* outputs = context.values.reserve<float>(n_pieces * n_rows * head_dim);
  auto* partials = context.keys.reserve<Partial>(n_pieces * n_rows);
  // At once and for everyone: which worker gets a task, and of how many keys, is a matter of
  // timing, and a token is to allocate nothing.
  for (WorkerScratch& scratch : context.workers) {
    scratch.first.reserve<float>(group * kPieceKeys);
  }

  context.pool.parallel_for(n_sequences * shape.n_kv_heads * n_pieces, [&](int64_t task,
                                                                           int worker) {
    const int64_t piece = task % n_pieces;
    const int64_t kv_head = task / n_pieces % shape.n_kv_heads;
    const int64_t sequence = task / n_pieces / shape.n_kv_heads;
    const int64_t begin = visible.first + piece * kPieceKeys;
    const int64_t count = std::min(kPieceKeys, visible.last - begin);
    const int64_t row = sequence * shape.n_heads + kv_head * group;
    const Piece part = {
        kernels, q.data<float>() + row * head_dim, sequence * n_keys + begin, count, kv_head, group,
        head_dim};
    float* scores = context.scratch(worker).first.reserve<float>(group * count);
    part.score(k, scores);
    for (int64_t j = 0; j < group; ++j) {
      float* weights = scores + j * count;
      const float top = shape.scale * kernels.maximum(weights, count);
      partials[piece * n_rows + row + j] = {
          top, kernels.exp_sum(weights, count, shape.scale, top, weights)};
    }
    part.weigh(v, scores, outputs + (piece * n_rows + row) * head_dim);
  });

  for (int64_t row = 0; row < n_rows; ++row) {
    float top = -std::numeric_limits<float>::infinity();
    for (int64_t piece = 0; piece < n_pieces; ++piece)
      top = std::max(top, partials[piece * n_rows + row].top);
    float* result = y.data<float>() + row * head_dim;
    std::fill(result, result + head_dim, 0.0f);
    float sum = 0.0f;
    for (int64_t piece = 0; piece < n_pieces; ++piece) {
      const Partial& partial = partials[piece * n_rows + row];
      const float factor = std::exp(partial.top - top);
      sum += factor * partial.sum;
      kernels.multiply_add(result, factor, outputs + (piece * n_rows + row) * head_dim, head_dim);
    }
    kernels.scale(result, 1.0f / sum, head_dim);
  }
}

}  // namespace d2q
