// What both directions of attention share: keys and values rearranged to one panel a head, products
// in either precision, and the mask.
#pragma once

#include <algorithm>

#include "kernels/cpu/eight_bit_heads.h"
#include "kernels/cpu/forward_ops.h"

namespace d2q {

constexpr int64_t kKeyTile = 256;
// Panels are padded to whole multiples of this, so that products come in few shapes.
constexpr int64_t kKeyPadding = 64;

inline void to_panel(const ForwardKernels&, const float* x, float* y, int64_t n) {
  std::copy(x, x + n, y);
}
inline void to_panel(const ForwardKernels& kernels, const float* x, BFloat16* y, int64_t n) {
  kernels.f32_to_bf16(x, &y->bits, n);
}

/// Rearranges k or v to one padded panel a sequence and head.
template <typename T>
void make_panels(CpuContext& context, const Tensor& source, const AttentionShape& shape,
                 int64_t n_keys, int64_t padded_keys, T* panels) {
  const int64_t head_dim = shape.head_dim;
  const int64_t n_panels = source.rows() / n_keys * shape.n_kv_heads;
  const int64_t n_blocks = (padded_keys + kKeyTile - 1) / kKeyTile;
  context.pool.parallel_for(n_panels * n_blocks, [&](int64_t task, int worker) {
    const int64_t panel = task / n_blocks;
    const int64_t sequence = panel / shape.n_kv_heads, head = panel % shape.n_kv_heads;
    const int64_t begin = task % n_blocks * kKeyTile;
    const int64_t end = std::min(padded_keys, begin + kKeyTile);
    auto* buffer = context.scratch(worker).first.template reserve<float>(head_dim);
    for (int64_t key = begin; key < end; ++key) {
      T* target = panels + (panel * padded_keys + key) * head_dim;
      if (key >= n_keys) {
        std::fill(target, target + head_dim, T{});
        continue;
      }
      const int64_t source_row = sequence * n_keys + key;
      const float* row = buffer;
      if (source.dtype() == DType::kU8) {
        dequantize_head(source.data<uint8_t>() + source_row * source.cols() +
                            head * eight_bit_head_bytes(head_dim),
                        head_dim, buffer);
      } else {
        row = row_as_f32(context.kernels, source, source_row, head * head_dim,
                         (head + 1) * head_dim, buffer);
      }
      to_panel(context.kernels, row, target, head_dim);
    }
  });
}

inline void multiply(const CpuContext&, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                     const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                     int64_t ldc) {
  gemm_f32(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}
inline void multiply(const CpuContext& context, bool trans_a, bool trans_b, int64_t m, int64_t n,
                     int64_t k, const BFloat16* a, int64_t lda, const BFloat16* b, int64_t ldb,
                     float beta, float* c, int64_t ldc) {
  context.multiply_bf16(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

/// Keys [first, last) that the query at absolute position `position` sees.
struct Visible {
  int64_t first;
  int64_t last;
};
inline Visible visible_keys(const AttentionShape& shape, int64_t position) {
  const int64_t last = position + 1;
  return {shape.window > 0 ? std::max<int64_t>(0, last - shape.window) : 0, last};
}

/// True for one f32 query a sequence on an f16 or 8-bit cache: decode_attention_cpu() takes it.
bool runs_as_decode(const Tensor& k, const Tensor& v, const AttentionShape& shape, const Tensor& y);

/// attention_cpu() for what runs_as_decode(), in f32.
void decode_attention_cpu(CpuContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionShape& shape, const Tensor& y);

}  // namespace d2q
