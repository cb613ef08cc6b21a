// Launchers of causal attention. Read by nvcc too: CUDA's headers only.
#pragma once

#include "kernels/cuda/cuda_forward_kernels.h"

namespace d2q::cuda {

/// Largest head that the kernels hold in registers.
constexpr int64_t kMaxHeadDim = 256;

/// Device::attention's arguments; q f32, k and v of one type, y f32 or bf16. head_dim at most
/// kMaxHeadDim, past_length + sequence_length below 2^31.
struct AttentionProblem {
  const float* q = nullptr;
  Values k;
  Values v;
  Values y;
  int64_t n_sequences = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t sequence_length = 0;
  int64_t past_length = 0;
  int64_t window = 0;
  float scale = 0.0f;
};

cudaError_t launch_attention_f32(const AttentionProblem& problem, cudaStream_t stream);
cudaError_t launch_attention_bf16(const AttentionProblem& problem, cudaStream_t stream);

}  // namespace d2q::cuda
