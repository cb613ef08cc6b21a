// Launchers that bring a quadratic form x·Hx into f16's range: Ĥ = H / (d dᵀ), d² the diagonal of
// H, whose elements are at most 1, and x̂ = x ⊙ d. Every pointer is device memory; a launcher
// returns the status of its launch.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// root[j] = the root of matrix[j, j], 1 where that is not above 0; inverse[j] = 1 / root[j].
cudaError_t launch_diagonal_roots(const float* matrix, int64_t n, float* root, float* inverse,
                                  cudaStream_t stream);
/// scaled[i, j] = matrix[i, j] · inverse[i] · inverse[j]; [n, n].
cudaError_t launch_scale_symmetric(const float* matrix, const float* inverse, int64_t n,
                                   __half* scaled, cudaStream_t stream);
/// scaled[i, j] = (a[i, j] − b[i, j]) · root[j] · row_scale[i]; [rows, cols]. A row's scale is the
/// power of two that brings its largest element into [1/2, 1). A step of coordinate descent is at
/// most twice its minimum's distance and thus, scaled, 2·cols: it fits into f16 up to 32752
/// columns.
cudaError_t launch_scaled_difference(const float* a, const float* b, const float* root,
                                     int64_t rows, int64_t cols, __half* scaled, float* row_scale,
                                     cudaStream_t stream);

}  // namespace d2q::cuda
