// Launchers of the forward's element-wise kernels and statistics: device pointers, sizes, a stream.
// Each returns what cudaGetLastError() says after the launch. kernels/device.h says what each
// operation computes. Read by nvcc too: CUDA's headers only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// DType's floating-point types.
enum class Scalar : int { kF32, kBF16, kF16, kF64 };

/// Values of a type that is known at run time: kernels bound by memory branch on it.
struct Values {
  void* data = nullptr;
  Scalar type = Scalar::kF32;
};

/// Activation, for headers that nvcc reads.
enum class Curve : int { kSilu, kGelu, kGeluTanh, kRelu };

/// n elements; different types (f64 passes through f32).
cudaError_t launch_convert(const Values& source, const Values& destination, int64_t n,
                           cudaStream_t stream);
cudaError_t launch_embed(const int32_t* ids, const Values& table, int64_t n_ids, int64_t width,
                         float* y, cudaStream_t stream);
/// shift may be null; y may be x.
cudaError_t launch_norm(const float* x, bool subtract_mean, const float* gain, const float* shift,
                        float epsilon, int64_t rows, int64_t width, const Values& y,
                        cudaStream_t stream);
/// x [rows, n_heads * head_dim] in place; cos, sin [*, half].
cudaError_t launch_rope(float* x, int64_t rows, int64_t n_heads, int64_t head_dim, int64_t half,
                        const int32_t* positions, const float* cos, const float* sin,
                        cudaStream_t stream);
/// y = act(x) up; up may be null.
cudaError_t launch_activation(Curve curve, const float* x, const float* up, int64_t n,
                              const Values& y, cudaStream_t stream);
/// x += y.
cudaError_t launch_add(float* x, const Values& y, int64_t n, cudaStream_t stream);
/// Every row of y [rows, width] becomes `row`.
cudaError_t launch_fill_rows(const float* row, int64_t rows, int64_t width, float* y,
                             cudaStream_t stream);
cudaError_t launch_cross_entropy(const float* logits, const int32_t* targets, int64_t rows,
                                 int64_t vocabulary, double* losses, cudaStream_t stream);
/// results [rows, 4]: divergence, reference loss, loss, and 1 where the largest logits' indices
/// agree, else 0.
cudaError_t launch_compare_logits(const float* reference, const float* logits,
                                  const int32_t* targets, int64_t rows, int64_t vocabulary,
                                  double* results, cudaStream_t stream);

/// matrix [n, n].
cudaError_t launch_mirror_lower(float* matrix, int64_t n, cudaStream_t stream);
/// Rows that one thread sums: the number of slices, and so the rounding, depends on `rows` alone.
int64_t difference_slices(int64_t rows);
/// partial: workspace [difference_slices(rows), 2, width].
cudaError_t launch_accumulate_difference(const Values& a, const Values& b, int64_t rows,
                                         int64_t width, double* partial, double* moments,
                                         cudaStream_t stream);
/// first: becomes the index of the first row with NaN or Inf where that is smaller.
cudaError_t launch_first_non_finite_row(const Values& x, int64_t rows, int64_t width,
                                        unsigned long long* first, cudaStream_t stream);

}  // namespace d2q::cuda
