#include "kernels/cuda/solver_columns_kernels.h"
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"

namespace d2q::cuda {
namespace {

constexpr int kWarpsPerBlock = kSolverThreads / kWarp;

/// One thread a weight.
__global__ void __launch_bounds__(kSolverThreads) levels_kernel(const ColumnScaleParts parts) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= parts.rows * parts.columns) return;
  const int64_t row = place / parts.columns;
  const int code = parts.codes[place];
  const float* params =
      parts.params + row * parts.params_stride + parts.first_param[place % parts.columns];
  float level = 0.0f;
  for (int k = 0; k < parts.n_planes; ++k) level += (code >> k & 1) != 0 ? params[k] : -params[k];
  parts.levels[place] = level;
}

/// One warp-wide strip of 32 columns a block; its warps take every eighth row, then add up in
/// order.
__global__ void __launch_bounds__(kSolverThreads) right_kernel(const ColumnScaleParts parts) {
  __shared__ double sums[kWarpsPerBlock][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  double sum = 0.0;
  if (column < parts.columns) {
    for (int64_t row = warp; row < parts.rows; row += kWarpsPerBlock) {
      const int64_t place = row * parts.columns + column;
      sum += static_cast<double>(parts.levels[place]) *
             static_cast<double>(parts.target_product[place]);
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= parts.columns) return;
  double total = 0.0;
  for (int w = 0; w < kWarpsPerBlock; ++w) total += sums[w][lane];
  parts.right[column] = total;
}

__global__ void __launch_bounds__(kSolverThreads) weigh_kernel(const ColumnScaleParts parts) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= parts.columns * parts.columns) return;
  const float value = parts.matrix[place] * parts.hessian[place];
  parts.matrix[place] = value;
  const int64_t row = place / parts.columns;
  if (place == row * parts.columns + row) parts.diagonal[row] = static_cast<double>(value);
}

/// One warp a row.
__global__ void __launch_bounds__(kSolverThreads)
    multiply_kernel(const float* matrix, int64_t n, const double* x, double* result) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (row >= n) return;  // a whole warp
  double sum = 0.0;
  for (int64_t j = lane; j < n; j += kWarp) sum += static_cast<double>(matrix[row * n + j]) * x[j];
  sum = lane_sum<kWarp>(sum);
  if (lane == 0) result[row] = sum;
}

__global__ void __launch_bounds__(kSolverThreads)
    scale_kernel(const ColumnScaleParts parts, const float* scale, float* weight) {
  const int64_t place = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (place >= parts.rows * parts.columns) return;
  weight[place] = scale[place % parts.columns] * parts.levels[place];
}

int64_t blocks_of(int64_t n) { return (n + kSolverThreads - 1) / kSolverThreads; }

}  // namespace

cudaError_t prepare_column_scale(const ColumnScaleParts& parts, cudaStream_t stream) {
  const cudaError_t status =
      launch(levels_kernel, blocks_of(parts.rows * parts.columns), kSolverThreads, stream, parts);
  if (status != cudaSuccess) return status;
  return launch(right_kernel, (parts.columns + kWarp - 1) / kWarp, kSolverThreads, stream, parts);
}

cudaError_t weigh_by_hessian(const ColumnScaleParts& parts, cudaStream_t stream) {
  return launch(weigh_kernel, blocks_of(parts.columns * parts.columns), kSolverThreads, stream,
                parts);
}

cudaError_t multiply_vector(const float* matrix, int64_t n, const double* x, double* result,
                            cudaStream_t stream) {
  return launch(multiply_kernel, row_blocks(n, kWarp), kSolverThreads, stream, matrix, n, x,
                result);
}

cudaError_t scale_levels(const ColumnScaleParts& parts, const float* scale, float* weight,
                         cudaStream_t stream) {
  return launch(scale_kernel, blocks_of(parts.rows * parts.columns), kSolverThreads, stream, parts,
                scale, weight);
}

}  // namespace d2q::cuda
