// The operations of a decoding step: one new token for each of a few sequences. What changes from
// step to step, tokens and positions, lies in the device's memory, and nothing waits for the
// device, so that Device::repeatable() can record a step once and replay it. B = sequences, rows of
// x.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "kernels/linear_weights.h"
#include "kernels/tensor.h"

namespace d2q {

enum class Activation;
struct AttentionShape;
struct NormParams;

/// Work that runs again and again with the same tensors.
class Repeatable {
 public:
  virtual ~Repeatable() = default;
  virtual void run() = 0;
};

/// Attention's constants besides its AttentionShape.
struct DecodeAttention {
  const NormParams* q_norm = nullptr;  // of each head, or null; without a shift
  const NormParams* k_norm = nullptr;
  Tensor cos;  // [n_positions, rotary_dim/2] f32
  Tensor sin;
};

/// Shape or dtype mistakes are InternalError. `products` as in Device::packed_linear(); with kBF16,
/// GPUs round the inputs of packed linears to 16 bits a block of 128 columns instead (at most 2^-16
/// of the block's largest value).
class DecodeOps {
 public:
  virtual ~DecodeOps() = default;
  /// Whether steps of such attention are faster through these operations than through Device's.
  virtual bool is_faster(const AttentionShape& shape) const = 0;
  /// Runs `operations`, which calls this object's others and nothing else of the device: they may
  /// start later than they are called, and together, at the latest when this returns.
  virtual void together(const std::function<void()>& operations) = 0;

  /// y[b, :] = row tokens[b] of the table, y f32. tokens [1, B] i32; those outside the table give
  /// NaN. The table's bias is ignored.
  virtual void embed(const Tensor& tokens, const Linear& table, const Tensor& y) = 0;
  /// y[B, sum of rows] f32 = the linears' outputs side by side, for norm(x) or, without a norm, x.
  virtual void project(const Tensor& x, const NormParams* norm,
                       std::span<const Linear* const> linears, const Tensor& y, DType products) = 0;
  /// y += linear(x).
  virtual void add_projection(const Tensor& x, const Linear& linear, const Tensor& y,
                              DType products) = 0;
  /// y[B, f] = act(gate(norm(x))) ⊙ up(norm(x)); gate may have no weights: y = act(up(norm(x))).
  virtual void project_gated(const Tensor& x, const NormParams& norm, const Linear& gate,
                             const Linear& up, Activation act, const Tensor& y, DType products) = 0;
  /// projections [B, (n_heads + 2 n_kv_heads) * head_dim] f32: q, k, v of each sequence's new
  /// token, at positions[b] ([1, B] i32). q and k are normalised and rotated, k and v appended to
  /// the sequence's rows of the cache, keys and values [B * capacity, n_kv_heads * head_dim] f16
  /// or, where Device::cache_row_bytes() is not 0, rows in 8 bits,
  /// and y[B, n_heads * head_dim] f32 attends over it. shape.sequence_length and past_length are
  /// not read. A position outside the capacity gives NaN.
  virtual void attend(const Tensor& projections, const Tensor& positions,
                      const AttentionShape& shape, const DecodeAttention& attention,
                      const Tensor& keys, const Tensor& values, const Tensor& y) = 0;
  /// tokens[b] = the index of the largest of logits[b, :], the first of equal ones.
  virtual void choose_most_likely(const Tensor& logits, const Tensor& tokens) = 0;
  /// positions[b] += 1.
  virtual void advance(const Tensor& positions) = 0;
};

}  // namespace d2q
