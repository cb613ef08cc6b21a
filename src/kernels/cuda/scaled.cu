#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/scaled_kernels.h"
#include "kernels/cuda/solver_math.cuh"

namespace d2q::cuda {
namespace {

__global__ void diagonal_roots(const float* matrix, int64_t n, float* root, float* inverse) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= n) return;
  const float x = matrix[j * n + j];
  root[j] = x > 0.0f ? sqrtf(x) : 1.0f;
  inverse[j] = 1.0f / root[j];
}

/// Rows are the grid's second dimension, so that no index is divided.
__global__ void scale_symmetric(const float* matrix, const float* inverse, int64_t n,
                                __half* scaled) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= n) return;
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y)
    scaled[i * n + j] = __float2half_rn(matrix[i * n + j] * inverse[i] * inverse[j]);
}

/// One block a row.
__global__ void __launch_bounds__(kThreads)
    scaled_difference(const float* a, const float* b, const float* root, int64_t cols,
                      __half* scaled, float* row_scale) {
  __shared__ float largest[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * cols;
  float most = 0.0f;
  for (int64_t j = thread; j < cols; j += kThreads)
    most = fmaxf(most, fabsf((a[begin + j] - b[begin + j]) * root[j]));
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, offset));
  if (thread % kWarp == 0) largest[thread / kWarp] = most;
  __syncthreads();
  for (int w = 0; w < kThreads / kWarp; ++w) most = fmaxf(most, largest[w]);
  int exponent = 0;
  frexpf(most, &exponent);
  const bool usable = most > 0.0f && isfinite(most);
  const float scale = usable ? ldexpf(1.0f, max(-126, min(-exponent, 126))) : 1.0f;
  for (int64_t j = thread; j < cols; j += kThreads)
    scaled[begin + j] = __float2half_rn((a[begin + j] - b[begin + j]) * root[j] * scale);
  if (thread == 0) row_scale[blockIdx.x] = scale;
}

}  // namespace

cudaError_t launch_diagonal_roots(const float* matrix, int64_t n, float* root, float* inverse,
                                  cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  diagonal_roots<<<blocks_for(n), kThreads, 0, stream>>>(matrix, n, root, inverse);
  return cudaGetLastError();
}

cudaError_t launch_scale_symmetric(const float* matrix, const float* inverse, int64_t n,
                                   __half* scaled, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  constexpr int64_t kMostRows = 65535;  // of a grid
  const auto rows = static_cast<unsigned>(n < kMostRows ? n : kMostRows);
  scale_symmetric<<<dim3(blocks_for(n), rows), kThreads, 0, stream>>>(matrix, inverse, n, scaled);
  return cudaGetLastError();
}

cudaError_t launch_scaled_difference(const float* a, const float* b, const float* root,
                                     int64_t rows, int64_t cols, __half* scaled, float* row_scale,
                                     cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  scaled_difference<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(a, b, root, cols, scaled,
                                                                          row_scale);
  return cudaGetLastError();
}

}  // namespace d2q::cuda
