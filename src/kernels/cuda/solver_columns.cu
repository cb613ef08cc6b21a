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

/// One warp a row. Does nothing once *stop is not 0; stop may be null.
__global__ void __launch_bounds__(kSolverThreads)
    multiply_kernel(const float* matrix, int64_t n, const double* x, double* result,
                    const double* stop) {
  if (stop != nullptr && *stop != 0.0) return;
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

constexpr int kGradientThreads = 1024;
enum GradientScalar { kSize, kStart, kStop };

/// Sum of every thread's x in a fixed order, the same in all threads of the block.
__device__ double sum_of_block(double x) {
  __shared__ double sums[kGradientThreads];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  sums[thread] = x;
  for (int half = kGradientThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  __syncthreads();
  return sums[0];
}

/// One block. residual = right − image, or less length·image; direction from the preconditioned
/// residual. Every thread keeps to its own elements.
__global__ void __launch_bounds__(kGradientThreads)
    gradient_step_kernel(const ColumnScaleGradients g, bool first, double tolerance) {
  const int64_t begin = threadIdx.x;
  double length = 0.0;
  if (!first) {
    if (g.scalars[kStop] != 0.0) return;  // the same in all threads, nobody has written yet
    double curvature = 0.0;
    for (int64_t j = begin; j < g.n; j += kGradientThreads)
      curvature += g.direction[j] * g.image[j];
    curvature = sum_of_block(curvature);
    if (!(curvature > 0.0)) {
      if (begin == 0) g.scalars[kStop] = 1.0;
      return;
    }
    length = g.scalars[kSize] / curvature;
  }
  double next = 0.0;
  for (int64_t j = begin; j < g.n; j += kGradientThreads) {
    if (first) {
      g.residual[j] = g.right[j] - g.image[j];
    } else {
      g.x[j] += length * g.direction[j];
      g.residual[j] -= length * g.image[j];
    }
    if (g.diagonal[j] > 0.0) next += g.residual[j] * g.residual[j] / g.diagonal[j];
  }
  next = sum_of_block(next);
  const double ratio = first ? 0.0 : next / g.scalars[kSize];
  for (int64_t j = begin; j < g.n; j += kGradientThreads) {
    const double z = g.diagonal[j] > 0.0 ? g.residual[j] / g.diagonal[j] : 0.0;
    g.direction[j] = first ? z : z + ratio * g.direction[j];
  }
  __syncthreads();  // the size has been read
  if (begin != 0) return;
  if (first) g.scalars[kStart] = next;
  g.scalars[kSize] = next;
  g.scalars[kStop] = next > tolerance * g.scalars[kStart] ? 0.0 : 1.0;
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
  return launch(multiply_kernel, row_blocks(n, kWarp), kSolverThreads, stream, matrix, n, x, result,
                static_cast<const double*>(nullptr));
}

cudaError_t minimise_column_scale(const ColumnScaleGradients& gradients, int max_steps,
                                  double tolerance, cudaStream_t stream) {
  const ColumnScaleGradients& g = gradients;
  const auto multiply = [&](const double* x, const double* stop) {
    return launch(multiply_kernel, row_blocks(g.n, kWarp), kSolverThreads, stream, g.matrix, g.n, x,
                  g.image, stop);
  };
  cudaError_t status = multiply(g.x, nullptr);
  if (status == cudaSuccess)
    status = launch(gradient_step_kernel, 1, kGradientThreads, stream, g, true, tolerance);
  for (int step = 0; step < max_steps && status == cudaSuccess; ++step) {
    status = multiply(g.direction, g.scalars + kStop);
    if (status == cudaSuccess)
      status = launch(gradient_step_kernel, 1, kGradientThreads, stream, g, false, tolerance);
  }
  return status;
}

cudaError_t scale_levels(const ColumnScaleParts& parts, const float* scale, float* weight,
                         cudaStream_t stream) {
  return launch(scale_kernel, blocks_of(parts.rows * parts.columns), kSolverThreads, stream, parts,
                scale, weight);
}

}  // namespace d2q::cuda
