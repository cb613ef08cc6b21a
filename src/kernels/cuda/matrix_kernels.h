// Launchers of the dense algebra around the solver (kernels/matrix_ops.h). Every pointer is device
// memory, matrices are row-major; a launcher returns the status of its launch. Read by nvcc too:
// CUDA's headers only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

cudaError_t launch_diagonal(const float* matrix, int64_t n, float* values, cudaStream_t stream);
cudaError_t launch_diagonal(const double* matrix, int64_t n, double* values, cudaStream_t stream);
/// cross = cross − gram, 0 in columns where gram's diagonal is; [n, n] both.
cudaError_t launch_subtract_gram(const float* gram, int64_t n, float* cross, cudaStream_t stream);
/// destination[i, j] = source[order[i], order[j]].
cudaError_t launch_permute(const float* source, const int32_t* order, int64_t n,
                           double* destination, cudaStream_t stream);
/// destination[i, j] = columns[j] < 0 ? 0 : source[i, columns[j]]; source [rows, width],
/// destination [rows, n].
cudaError_t launch_gather(const float* source, const int32_t* columns, int64_t rows, int64_t width,
                          int64_t n, float* destination, cudaStream_t stream);
cudaError_t launch_gather(const uint8_t* source, const int32_t* columns, int64_t rows,
                          int64_t width, int64_t n, uint8_t* destination, cudaStream_t stream);
/// x = (x == 0 ? 1 : x) + value on the diagonal.
cudaError_t launch_shift_diagonal(double* matrix, int64_t n, double value, cudaStream_t stream);

struct CodedWeights {
  const uint8_t* codes = nullptr;  // [rows, cols]
  const float* params = nullptr;   // [rows, n_groups * n_params]
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t n_groups = 0;
  int n_params = 0;
  bool uniform = false;
};
cudaError_t launch_expand_codes(const CodedWeights& coded, float* weight, cudaStream_t stream);

/// destination = J·source·J + shift·I, J the reversal; [n, n] both.
cudaError_t launch_reverse(const double* source, int64_t n, double shift, double* destination,
                           cudaStream_t stream);
/// destination = J·tril(source)·J, which is upper.
cudaError_t launch_reverse_lower(const double* source, int64_t n, double* destination,
                                 cudaStream_t stream);
/// x[i, j] = 0 where j <= i; x [rows, width].
cudaError_t launch_keep_strict_upper(double* x, int64_t rows, int64_t width, cudaStream_t stream);
/// y[i, j] = x[i, j] where j > i, else 0; x [rows, width] dense, rows of y `stride` apart.
cudaError_t launch_store_strict_upper(const double* x, int64_t rows, int64_t width, float* y,
                                      int64_t stride, cudaStream_t stream);

}  // namespace d2q::cuda
