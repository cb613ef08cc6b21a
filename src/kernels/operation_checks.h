// What every device demands of an operation's arguments (device.h), written once. A mistake is
// InternalError.
#pragma once

#include <cstdint>
#include <span>

#include "codec/packed_matrix.h"
#include "kernels/decode_ops.h"
#include "kernels/device.h"
#include "kernels/gradient_ops.h"

namespace d2q {

/// Device::load and store.
void check_transfer(const Tensor& source, const Tensor& destination);
/// Device::linear.
void check_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y);
/// Device::packed_linear.
void check_packed_linear(const Tensor& x, const PackedLayout& w, const Tensor& bias,
                         const Tensor& y, DType products);
/// Device::rope and its backward.
void check_rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions,
                const Tensor& cos, const Tensor& sin);
/// Device::accumulate_gram and accumulate_cross.
void check_accumulation(const Tensor& a, const Tensor& b, const Tensor& sum);
/// x [T, n] f32 into y of the same shape, f32 or bf16.
void check_output(const Tensor& x, const Tensor& y);
/// GradientOps::divergence.
void check_divergence(const Tensor& reference, const Tensor& logits, const Tensor& d_logits);
/// Device::compare_logits.
void check_compare_logits(const Tensor& reference, const Tensor& logits,
                          std::span<const int32_t> targets,
                          std::span<const LogitComparison> comparisons);

/// DecodeOps::embed.
void check_decode_embed(const Tensor& tokens, const Linear& table, const Tensor& y);
/// DecodeOps::project and, with one linear of y's width, the other projections.
void check_projections(const Tensor& x, std::span<const Linear* const> linears, const Tensor& y);
/// DecodeOps::attend.
void check_decode_attention(const Tensor& projections, const Tensor& positions,
                            const AttentionShape& shape, const DecodeAttention& attention,
                            const Tensor& keys, const Tensor& values, const Tensor& y);

/// SolverOps::column_walk.
void check_column_walk(const ColumnWalk& walk);
/// Groups that follow one another from column 0 to `n`.
void check_groups(std::span<const ColumnGroup> groups, int64_t n);
/// GradientOps::reconstruct and scale_gradients.
void check_tuned_linear(const TunedLinear& linear);

/// A square matrix of `dtype`, [n, n] where n is given.
void check_square(const Tensor& matrix, DType dtype, int64_t n = -1);
/// MatrixOps::permute, gather_columns, expand and errors.
void check_permutation(const Tensor& source, std::span<const int64_t> order,
                       const Tensor& destination);
void check_gather(const Tensor& source, std::span<const int64_t> columns,
                  const Tensor& destination);
void check_expansion(const PackedLayout& layout, const Tensor& codes, const Tensor& params,
                     const Tensor& weight);
void check_errors(const Tensor& weight, std::span<const Tensor> candidates, const Tensor& gram,
                  const Tensor& deviation);

}  // namespace d2q
