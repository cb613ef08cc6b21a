#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/triangular_kernels.h"

namespace d2q::cuda {
namespace {

__global__ void keep_lower(double* a, int64_t n) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= n) return;
  for (int64_t row = blockIdx.y; row < n && row < column; row += gridDim.y)
    a[row * n + column] = 0.0;
}

/// A block a triangle, a thread a column of its inverse.
__global__ void __launch_bounds__(kTriangleSize) invert_triangles(double* a, int64_t n) {
  extern __shared__ double shared[];
  auto* lower = shared;                                    // [size, size]
  auto* inverse = shared + kTriangleSize * kTriangleSize;  // the same
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTriangleSize;
  const int size = static_cast<int>(min(static_cast<int64_t>(kTriangleSize), n - begin));
  const int j = static_cast<int>(threadIdx.x);
  double* corner = a + begin * n + begin;
  if (j < size) {
    for (int i = 0; i < size; ++i) lower[i * kTriangleSize + j] = corner[i * n + j];
  }
  __syncthreads();
  if (j >= size) return;
  for (int i = 0; i < size; ++i) {
    double sum = i == j ? 1.0 : 0.0;
    // Every column starts at 0, so that a warp's threads stay together.
    for (int k = 0; k < i; ++k)
      sum -= lower[i * kTriangleSize + k] * inverse[k * kTriangleSize + j];
    const double x = i < j ? 0.0 : sum / lower[i * kTriangleSize + i];
    inverse[i * kTriangleSize + j] = x;
    corner[i * n + j] = x;
  }
}

}  // namespace

cudaError_t launch_invert_triangles(double* a, int64_t n, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  constexpr int64_t kMostRows = 65535;  // of a grid
  const auto rows = static_cast<unsigned>(n < kMostRows ? n : kMostRows);
  keep_lower<<<dim3(blocks_for(n), rows), kThreads, 0, stream>>>(a, n);
  constexpr int kBytes = 2 * kTriangleSize * kTriangleSize * static_cast<int>(sizeof(double));
  const cudaError_t status =
      cudaFuncSetAttribute(invert_triangles, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  invert_triangles<<<blocks_for(n, kTriangleSize), kTriangleSize, kBytes, stream>>>(a, n);
  return cudaGetLastError();
}

}  // namespace d2q::cuda
