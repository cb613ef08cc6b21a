#include "kernels/cuda/solver_fit_kernels.h"
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_planes.cuh"

namespace d2q::cuda {
namespace {

constexpr int kRowsPerBlock = kSolverThreads / kRowLanes;
constexpr int kUpdateColumns = 8;  // of a block: a sector of memory
/// Keeps c invertible for columns that are zero or nearly so: at least this share of the group's
/// mean.
constexpr float kSmallestColumnShare = 1.0f / 256.0f;

template <int kPlanes>
__global__ void __launch_bounds__(kSolverThreads)
    fit_planes_kernel(const FitGroup group, const float* c, int iterations) {
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  // Threads beyond the last row repeat it: sums over lanes need whole warps.
  const int64_t row = min(thread / kRowLanes, group.rows - 1);
  const float* x = group.data + row * group.stride;
  const double total = squared_scale<kRowLanes>(c, group.cols, lane);
  PlaneCoder<kPlanes> coder;
  start_row<kPlanes, kRowLanes>(x, c, group.cols, lane, total, coder.r);
  coder.greedy = true;
  for (int iteration = 0; iteration < iterations; ++iteration) {
    double solved[kPlanes];
    fit_row<kPlanes, kRowLanes>(x, c, group.cols, lane, total, coder, solved);
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) coder.r[p] = static_cast<float>(fabs(solved[p]));
    coder.greedy = false;
    coder.set_levels();
  }
  if (lane != 0 || thread / kRowLanes >= group.rows) return;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p)
    group.params[row * group.params_stride + p] = round_to_half(fminf(coder.r[p], kLargestHalf));
}

/// Adds up, column by column, what term(slot, column) gives for the block's rows, slot = row within
/// the block, in a fixed order: slices of rows by different threads, then the slices.
template <typename Term>
__device__ void sum_rows(const ColumnFit& fit, bool with_denominator, const Term& term) {
  __shared__ float numerators[kSolverThreads];
  __shared__ float denominators[kSolverThreads];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock;
  const int n_rows =
      static_cast<int>(min(static_cast<int64_t>(kRowsPerBlock), fit.group.rows - first_row));
  for (int tile = 0; tile < fit.group.cols; tile += kSolverThreads) {
    const int width = min(kSolverThreads, fit.group.cols - tile);
    const int n_slices = kSolverThreads / width;
    const int slice = thread / width;
    float numerator = 0.0f;
    float denominator = 0.0f;
    if (slice < n_slices) {
      for (int slot = slice; slot < n_rows; slot += n_slices)
        term(slot, first_row + slot, tile + thread % width, numerator, denominator);
    }
    numerators[thread] = numerator;
    denominators[thread] = denominator;
    __syncthreads();
    if (thread < width) {
      for (int s = 1; s < n_slices; ++s) {
        numerator += numerators[s * width + thread];
        denominator += denominators[s * width + thread];
      }
      const int64_t place = static_cast<int64_t>(blockIdx.x) * fit.group.cols + tile + thread;
      fit.numerators[place] = numerator;
      if (with_denominator) fit.denominators[place] = denominator;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kSolverThreads) column_magnitudes_kernel(const ColumnFit fit) {
  sum_rows(fit, false, [&](int, int64_t row, int column, float& numerator, float&) {
    numerator += fabsf(fit.group.data[row * fit.group.stride + column]);
  });
}

template <int kPlanes>
__global__ void __launch_bounds__(kSolverThreads) start_rows_kernel(const ColumnFit fit) {
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = min(thread / kRowLanes, fit.group.rows - 1);
  const double total = squared_scale<kRowLanes>(fit.column_scale, fit.group.cols, lane);
  float r[kPlanes];
  start_row<kPlanes, kRowLanes>(fit.group.data + row * fit.group.stride, fit.column_scale,
                                fit.group.cols, lane, total, r);
  if (lane != 0 || thread / kRowLanes >= fit.group.rows) return;
#pragma unroll
  for (int p = 0; p < kPlanes; ++p) fit.r[row * kPlanes + p] = r[p];
}

/// A round's share of these rows: new r, then the sums of (2) of §5.2 with the codes that r was
/// fitted to.
template <int kPlanes>
__global__ void __launch_bounds__(kSolverThreads) fit_rows_kernel(const ColumnFit fit, bool first) {
  __shared__ float assigned_with[kRowsPerBlock][kPlanes];  // r that the codes follow from
  __shared__ float fitted[kRowsPerBlock][kPlanes];         // new r, with its sign
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kRowLanes;
  const int own_slot = thread / kRowLanes;
  const int64_t unclamped = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + own_slot;
  const int64_t own_row = min(unclamped, fit.group.rows - 1);
  const float* c = fit.column_scale;
  const int cols = fit.group.cols;
  {
    PlaneCoder<kPlanes> coder;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) coder.r[p] = fit.r[own_row * kPlanes + p];
    coder.greedy = first;
    coder.set_levels();
    double solved[kPlanes];
    fit_row<kPlanes, kRowLanes>(fit.group.data + own_row * fit.group.stride, c, cols, lane,
                                squared_scale<kRowLanes>(c, cols, lane), coder, solved);
    if (lane == 0) {
#pragma unroll
      for (int p = 0; p < kPlanes; ++p) {
        assigned_with[own_slot][p] = coder.r[p];
        fitted[own_slot][p] = static_cast<float>(solved[p]);
      }
    }
  }
  // Every row of the block, its repetitions included, has read its old r by now.
  __syncthreads();
  if (lane == 0 && unclamped < fit.group.rows) {
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) fit.r[own_row * kPlanes + p] = fabsf(fitted[own_slot][p]);
  }
  sum_rows(fit, true, [&](int slot, int64_t row, int column, float& numerator, float& denominator) {
    PlaneCoder<kPlanes> coder;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) coder.r[p] = assigned_with[slot][p];
    coder.greedy = first;
    coder.set_levels();
    const float x = fit.group.data[row * fit.group.stride + column];
    const int code = coder.code_of(x, c[column]);
    float level = 0.0f;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p)
      level += (code >> p & 1) != 0 ? fitted[slot][p] : -fitted[slot][p];
    numerator += x * level;
    denominator += level * level;
  });
}

/// Sum of every thread's x in a fixed order, the same in all threads of a block of kSolverThreads.
__device__ double block_sum(double x) {
  __shared__ double sums[kSolverThreads];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  sums[thread] = x;
  for (int half = kSolverThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  __syncthreads();
  return sums[0];
}

/// Sum over the rows of x[parts, cols] in the block's column thread % kUpdateColumns, in the first
/// threads.
__device__ double sum_parts(const float* x, int64_t n_parts, int cols, int column) {
  constexpr int kWarps = kSolverThreads / kWarp;
  __shared__ double sums[kWarps][kUpdateColumns];
  const int thread = static_cast<int>(threadIdx.x);
  double sum = 0.0;
  if (column < cols) {
    // Loads must not wait for each other.
#pragma unroll 8
    for (int64_t part = thread / kUpdateColumns; part < n_parts;
         part += kSolverThreads / kUpdateColumns)
      sum += static_cast<double>(x[part * cols + column]);
  }
#pragma unroll
  for (int offset = kWarp / 2; offset >= kUpdateColumns; offset /= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, offset);
  __syncthreads();
  if (thread % kWarp < kUpdateColumns) sums[thread / kWarp][thread % kWarp] = sum;
  __syncthreads();
  double total = 0.0;
  if (thread < kUpdateColumns) {
    for (int w = 0; w < kWarps; ++w) total += sums[w][thread];
  }
  return total;
}

/// c from the sums of all parts, some columns a block; the block that is last to finish then lets
/// no column be below a share of their mean.
__global__ void __launch_bounds__(kSolverThreads)
    update_columns_kernel(const ColumnFit fit, int64_t n_parts, ColumnUpdate update) {
  __shared__ bool is_last;
  const int thread = static_cast<int>(threadIdx.x);
  const int cols = fit.group.cols;
  float* c = fit.column_scale;
  const int column = static_cast<int>(blockIdx.x) * kUpdateColumns + thread % kUpdateColumns;
  const double numerator = sum_parts(fit.numerators, n_parts, cols, column);
  double denominator = static_cast<double>(fit.group.rows);
  if (update == ColumnUpdate::kLeastSquares)
    denominator = sum_parts(fit.denominators, n_parts, cols, column);
  if (thread < kUpdateColumns && column < cols && denominator > 0.0)
    c[column] = static_cast<float>(fabs(numerator / denominator));
  __threadfence();
  __syncthreads();
  if (thread == 0) is_last = atomicAdd(fit.arrived, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  double sum = 0.0;
  for (int j = thread; j < cols; j += kSolverThreads) sum += static_cast<double>(__ldcg(c + j));
  const auto mean = static_cast<float>(block_sum(sum) / static_cast<double>(cols));
  const float smallest = kSmallestColumnShare * mean;
  for (int j = thread; j < cols; j += kSolverThreads) {
    const bool all_zero = update == ColumnUpdate::kMeanMagnitude && !(smallest > 0.0f);
    c[j] = all_zero ? 1.0f : fmaxf(__ldcg(c + j), smallest);
  }
  if (thread == 0) *fit.arrived = 0;
}

__global__ void __launch_bounds__(kSolverThreads) normalise_columns_kernel(const ColumnFit fit) {
  const int thread = static_cast<int>(threadIdx.x);
  const int cols = fit.group.cols;
  double sum = 0.0;
  for (int j = thread; j < cols; j += kSolverThreads)
    sum += log(static_cast<double>(fit.column_scale[j]));
  const double factor = exp(block_sum(sum) / static_cast<double>(cols));
  for (int j = thread; j < cols; j += kSolverThreads) {
    fit.column_scale[j] = static_cast<float>(static_cast<double>(fit.column_scale[j]) / factor);
  }
  if (thread == 0) *fit.factor = factor;
}

__global__ void store_rows_kernel(const ColumnFit fit) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= fit.group.rows * fit.planes) return;
  const auto value = static_cast<float>(static_cast<double>(fit.r[i]) * *fit.factor);
  fit.group.params[i / fit.planes * fit.group.params_stride + i % fit.planes] =
      round_to_half(fminf(value, kLargestHalf));
}

}  // namespace

cudaError_t fit_planes(const FitGroup& group, const float* column_scale, int planes, int iterations,
                       cudaStream_t stream) {
  const int64_t n_blocks = row_blocks(group.rows);
  switch (planes) {
    case 1:
      return launch(fit_planes_kernel<1>, n_blocks, kSolverThreads, stream, group, column_scale,
                    iterations);
    case 2:
      return launch(fit_planes_kernel<2>, n_blocks, kSolverThreads, stream, group, column_scale,
                    iterations);
    case 3:
      return launch(fit_planes_kernel<3>, n_blocks, kSolverThreads, stream, group, column_scale,
                    iterations);
    default:
      return cudaErrorInvalidValue;
  }
}

int64_t column_fit_parts(int64_t rows) { return (rows + kRowsPerBlock - 1) / kRowsPerBlock; }

cudaError_t column_magnitudes(const ColumnFit& fit, cudaStream_t stream) {
  return launch(column_magnitudes_kernel, column_fit_parts(fit.group.rows), kSolverThreads, stream,
                fit);
}

cudaError_t start_rows(const ColumnFit& fit, cudaStream_t stream) {
  const int64_t n_blocks = column_fit_parts(fit.group.rows);
  switch (fit.planes) {
    case 1:
      return launch(start_rows_kernel<1>, n_blocks, kSolverThreads, stream, fit);
    case 2:
      return launch(start_rows_kernel<2>, n_blocks, kSolverThreads, stream, fit);
    case 3:
      return launch(start_rows_kernel<3>, n_blocks, kSolverThreads, stream, fit);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t fit_rows(const ColumnFit& fit, bool first, cudaStream_t stream) {
  const int64_t n_blocks = column_fit_parts(fit.group.rows);
  switch (fit.planes) {
    case 1:
      return launch(fit_rows_kernel<1>, n_blocks, kSolverThreads, stream, fit, first);
    case 2:
      return launch(fit_rows_kernel<2>, n_blocks, kSolverThreads, stream, fit, first);
    case 3:
      return launch(fit_rows_kernel<3>, n_blocks, kSolverThreads, stream, fit, first);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t update_columns(const ColumnFit& fit, ColumnUpdate update, cudaStream_t stream) {
  return launch(update_columns_kernel, (fit.group.cols + kUpdateColumns - 1) / kUpdateColumns,
                kSolverThreads, stream, fit, column_fit_parts(fit.group.rows), update);
}

cudaError_t normalise_columns(const ColumnFit& fit, cudaStream_t stream) {
  return launch(normalise_columns_kernel, 1, kSolverThreads, stream, fit);
}

cudaError_t store_rows(const ColumnFit& fit, cudaStream_t stream) {
  const int64_t n = fit.group.rows * fit.planes;
  return launch(store_rows_kernel, (n + kSolverThreads - 1) / kSolverThreads, kSolverThreads,
                stream, fit);
}

}  // namespace d2q::cuda
