// The forward's operations on host tensors; Device in kernels/device.h says what each one computes.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu/cpu_context.h"
#include "kernels/device.h"

namespace d2q {

void convert_cpu(CpuContext& context, const Tensor& source, const Tensor& destination);
void linear_cpu(CpuContext& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                const Tensor& y);
void embed_cpu(CpuContext& context, std::span<const int32_t> ids, const Tensor& table,
               const Tensor& y);
void norm_cpu(CpuContext& context, const Tensor& x, const NormParams& params, const Tensor& y);
void rope_cpu(CpuContext& context, const Tensor& x, int64_t n_heads,
              std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin);
void attention_cpu(CpuContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionShape& shape, const Tensor& y, DType products);
void activation_cpu(CpuContext& context, Activation act, const Tensor& x, const Tensor& y);
void gated_activation_cpu(CpuContext& context, Activation act, const Tensor& gate, const Tensor& up,
                          const Tensor& y);
void add_cpu(CpuContext& context, const Tensor& x, const Tensor& y);
void cross_entropy_cpu(CpuContext& context, const Tensor& logits, std::span<const int32_t> targets,
                       std::span<double> losses);
double divergence_cpu(CpuContext& context, const Tensor& reference, const Tensor& logits,
                      float factor, const Tensor& d_logits);
void compare_logits_cpu(CpuContext& context, const Tensor& reference, const Tensor& logits,
                        std::span<const int32_t> targets, std::span<LogitComparison> comparisons);

void accumulate_gram_cpu(CpuContext& context, const Tensor& x, float scale, const Tensor& sum);
void accumulate_cross_cpu(CpuContext& context, const Tensor& a, const Tensor& b, float scale,
                          const Tensor& sum);
void mirror_lower_cpu(CpuContext& context, const Tensor& matrix);
void accumulate_difference_cpu(CpuContext& context, const Tensor& a, const Tensor& b,
                               const Tensor& moments);
int64_t first_non_finite_row_cpu(CpuContext& context, const Tensor& x);

/// Columns [begin, end) of row `row` of an f32, bf16 or f16 tensor as f32; `buffer` holds them
/// where a conversion is needed.
const float* row_as_f32(const ForwardKernels& kernels, const Tensor& x, int64_t row, int64_t begin,
                        int64_t end, float* buffer);

/// x with every value rounded to bf16, as bf16: x itself, or in context.input until its next use.
const BFloat16* rounded_to_bf16(CpuContext& context, const Tensor& x);

}  // namespace d2q
