// Launchers of the backward's kernels: device pointers, sizes, a stream. Each returns what
// cudaGetLastError() says after its launches. kernels/gradient_ops.h says what each operation
// computes. Read by nvcc too: CUDA's headers only.
#pragma once

#include "kernels/cuda/cuda_attention_kernels.h"

namespace d2q::cuda {

/// The rows whose contributions to a gain or bias one thread adds up, and their number: they depend
/// on the number of rows alone.
int64_t column_sum_slices(int64_t rows);
/// d_x += ..., and d_gain and d_shift likewise; both may be null. Workspaces: statistics [rows, 2],
/// partial [column_sum_slices(rows), 2, width].
struct NormGradient {
  const float* x = nullptr;
  bool subtract_mean = false;
  const float* gain = nullptr;
  float epsilon = 0.0f;
  int64_t rows = 0;
  int64_t width = 0;
  const float* d_y = nullptr;
  float* d_x = nullptr;
  float* d_gain = nullptr;
  float* d_shift = nullptr;
  float* statistics = nullptr;
  float* partial = nullptr;
};
cudaError_t launch_norm_gradient(const NormGradient& norm, cudaStream_t stream);
/// sums[width] += the columns' sums; partial as above.
cudaError_t launch_column_sums(const float* d_y, int64_t rows, int64_t width, float* partial,
                               float* sums, cudaStream_t stream);
/// The opposite rotation; arguments as launch_rope's.
cudaError_t launch_rope_gradient(float* d_x, int64_t rows, int64_t n_heads, int64_t head_dim,
                                 int64_t half, const int32_t* positions, const float* cos,
                                 const float* sin, cudaStream_t stream);
/// up and d_up may be null together.
cudaError_t launch_activation_gradient(Curve curve, const float* gate, const float* up,
                                       const float* d_y, int64_t n, float* d_gate, float* d_up,
                                       cudaStream_t stream);

/// A TunedLinear. At most kMaxPlanes planes.
struct SignedLinear {
  const uint8_t* codes = nullptr;
  const float* params = nullptr;
  const float* column_scale = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t n_groups = 0;
  int64_t group_size = 0;
  int planes = 0;
};
constexpr int kMaxPlanes = 8;
cudaError_t launch_reconstruct(const SignedLinear& linear, const Values& w, cudaStream_t stream);
cudaError_t launch_scale_gradients(const SignedLinear& linear, const float* d_w, float* d_params,
                                   cudaStream_t stream);

/// Blocks that launch_squared_error() sums in.
int64_t squared_error_parts(int64_t n);
/// partial: workspace [squared_error_parts(n)]; sum: one value.
cudaError_t launch_squared_error(const Values& y, const Values& target, float factor, int64_t n,
                                 float* d_y, double* partial, double* sum, cudaStream_t stream);
/// divergences [rows]; d_logits may be `logits`.
cudaError_t launch_divergence(const float* reference, const float* logits, int64_t rows,
                              int64_t vocabulary, float factor, float* d_logits,
                              double* divergences, cudaStream_t stream);
/// The corrections are 1 / (1 - beta^step).
struct AdamUpdate {
  float rate = 0.0f;
  float beta1 = 0.0f;
  float beta2 = 0.0f;
  float epsilon = 0.0f;
  float first_correction = 1.0f;
  float second_correction = 1.0f;
};
cudaError_t launch_adam(float* parameter, const float* gradient, float* first_moment,
                        float* second_moment, int64_t n, const AdamUpdate& update,
                        cudaStream_t stream);

/// `forward` holds the shape, q, k, v and y. Workspaces of one value a query and head: deltas,
/// rowsum(d_y ⊙ y), and log_sums. past_length is 0.
struct AttentionGradient {
  AttentionProblem forward;
  Values d_y;
  float* d_q = nullptr;
  float* d_k = nullptr;
  float* d_v = nullptr;
  float* deltas = nullptr;
  float* log_sums = nullptr;
};
cudaError_t launch_attention_gradient_f32(const AttentionGradient& problem, cudaStream_t stream);
cudaError_t launch_attention_gradient_bf16(const AttentionGradient& problem, cudaStream_t stream);
/// Writes deltas; the two launchers above call it.
cudaError_t launch_attention_deltas(const AttentionGradient& problem, cudaStream_t stream);

}  // namespace d2q::cuda
