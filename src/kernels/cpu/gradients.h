// GradientOps on the CPU; kernels/gradient_ops.h says what each function computes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/cpu_context.h"
#include "kernels/gradient_kernels.h"
#include "kernels/gradient_ops.h"

namespace d2q {

/// One worker's tile of attention.
struct AttentionGradientScratch {
  ScratchBuffer queries;
  ScratchBuffer d_outputs;
  ScratchBuffer scores;
  ScratchBuffer d_probabilities;
  ScratchBuffer probabilities;
  ScratchBuffer d_scores;
  ScratchBuffer d_queries;
};

struct GradientContext {
  CpuContext& forward;
  const GradientKernels& kernels;
  ScratchBuffer partial;  // sums of each task before they are added in order
  ScratchBuffer partial_keys;
  ScratchBuffer partial_values;
  std::vector<AttentionGradientScratch> attention;  // one a worker
};

/// `context` has to outlive the result; `kernels` is the table of an ISA that this machine has.
std::unique_ptr<GradientOps> make_cpu_gradients(CpuContext& context,
                                                const GradientKernels& kernels);

void linear_input_gradient(CpuContext& context, const Tensor& d_y, const Tensor& w,
                           const Tensor& d_x, bool accumulate);
void linear_weight_gradient(CpuContext& context, const Tensor& d_y, const Tensor& x,
                            const Tensor& d_w);

void norm_gradient(GradientContext& context, const Tensor& x, const NormParams& params,
                   const Tensor& d_y, const Tensor& d_x, const Tensor& d_gain,
                   const Tensor& d_shift);
void rope_gradient(CpuContext& context, const Tensor& d_x, int64_t n_heads,
                   std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin);
/// `up` and `d_up` are empty for an activation without a gate.
void activation_gradient(GradientContext& context, Activation act, const Tensor& gate,
                         const Tensor& up, const Tensor& d_y, const Tensor& d_gate,
                         const Tensor& d_up);
void add_column_sums(GradientContext& context, const Tensor& d_y, const Tensor& d_bias);

void attention_gradient(GradientContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& y, const Tensor& d_y, const AttentionShape& shape,
                        const Tensor& d_q, const Tensor& d_k, const Tensor& d_v, DType products);

void reconstruct_linear(CpuContext& context, const TunedLinear& linear, const Tensor& w);
void scale_gradients(CpuContext& context, const TunedLinear& linear, const Tensor& d_w,
                     const Tensor& d_params);
double squared_error(CpuContext& context, const Tensor& y, const Tensor& target, float factor,
                     const Tensor& d_y);
void adam(CpuContext& context, const Tensor& parameter, const Tensor& gradient,
          const Tensor& first_moment, const Tensor& second_moment, const AdamStep& step);

}  // namespace d2q
