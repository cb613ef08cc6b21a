#include <cuda_bf16.h>

#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_tile.cuh"
#include "kernels/cuda/solver_walk_kernels.h"

namespace d2q::cuda {
namespace {

constexpr int kLanes = 4;  // threads that share a row; all of them round at each other's turns
constexpr int kOwn = 4;    // neighbouring columns of a lane in a stripe
constexpr int kStripe = kLanes * kOwn;
constexpr int kStripes = kBlockColumns / kStripe;
constexpr int kMaxThreads = 512;

/// A row's values in registers: column 16·s + 4·lane + j of the block is [s][j].
using RowValues = float[kStripes][kOwn];

__device__ int column_of(int stripe, int lane, int j) { return stripe * kStripe + lane * kOwn + j; }

/// x += factor · a row of the tile, from a stripe on.
template <int kFirst>
__device__ void add_row(const float* tile, int row, int lane, float factor, RowValues& x) {
  const auto* values = reinterpret_cast<const float4*>(tile + row * kBlockColumns + lane * kOwn);
#pragma unroll
  for (int s = kFirst; s < kStripes; ++s) {
    const float4 h = values[s * (kStripe / 4)];
    x[s][0] += factor * h.x;
    x[s][1] += factor * h.y;
    x[s][2] += factor * h.z;
    x[s][3] += factor * h.w;
  }
}

/// One stripe of walk_part_kernel.
template <int kLevels, int kStripeIndex>
__device__ void walk_stripe(const WalkPart& part, const RowGrid<kLevels>& grid, int64_t row,
                            bool active, int lane, const float* factor, const float* asymmetry,
                            RowValues& w) {
  const int64_t diagonal = part.begin * part.stride + part.begin;
  float c[kOwn], inverse[kOwn], q[kOwn] = {}, error[kOwn] = {};
  int code[kOwn] = {};
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int own = column_of(kStripeIndex, lane, j);
    const bool has_column = own < part.n_columns;
    c[j] = has_column ? part.column_scale[part.begin + own] : 1.0f;
    inverse[j] = has_column && part.factor != nullptr
                     ? 1.0f / part.factor[diagonal + own * part.stride + own]
                     : 0.0f;
  }
  if (part.factor == nullptr) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) grid.nearest(c[j], w[kStripeIndex][j], q[j], code[j]);
  } else {
    for (int turn = 0; turn < kLanes; ++turn) {
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const int column = column_of(kStripeIndex, turn, j);
        if (column >= part.n_columns) break;
        float level;
        int level_code;
        grid.nearest(c[j], w[kStripeIndex][j], level, level_code);
        const float e = (w[kStripeIndex][j] - level) * inverse[j];
        if (turn == lane) {
          q[j] = level;
          code[j] = level_code;
          error[j] = e;
        }
        const float e_now = __shfl_sync(kAllLanes, e, turn, kLanes);
        const float w_now = __shfl_sync(kAllLanes, w[kStripeIndex][j], turn, kLanes);
        add_row<kStripeIndex>(factor, column, lane, -e_now, w);
        if (part.asymmetry != nullptr) add_row<kStripeIndex>(asymmetry, column, lane, w_now, w);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int own = column_of(kStripeIndex, lane, j);
    if (!active || own >= part.n_columns) continue;
    const int64_t place = row * part.stride + part.begin + own;
    part.weight[place] = q[j];
    part.codes[place] = static_cast<uint8_t>(code[j]);
    if (part.negated_errors != nullptr) part.negated_errors[row * kBlockColumns + own] = -error[j];
    if (part.finished != nullptr) part.finished[row * kBlockColumns + own] = q[j];
  }
}

/// The stripes in order; their places in the registers are known to the compiler.
template <int kLevels, int kFirst = 0>
__device__ void walk_stripes(const WalkPart& part, const RowGrid<kLevels>& grid, int64_t row,
                             bool active, int lane, const float* factor, const float* asymmetry,
                             RowValues& w) {
  if constexpr (kFirst < kStripes) {
    if (kFirst * kStripe >= part.n_columns) return;
    walk_stripe<kLevels, kFirst>(part, grid, row, active, lane, factor, asymmetry, w);
    walk_stripes<kLevels, kFirst + 1>(part, grid, row, active, lane, factor, asymmetry, w);
  }
}

/// All lanes of a row round their own column at every turn, but only the one whose turn it is
/// counts: its error goes to the others by a shuffle. No lane leaves early, for the shuffles need
/// the whole warp.
template <int kLevels>
__global__ void __launch_bounds__(kMaxThreads)
    walk_part_kernel(const WalkPart part, float max_code) {
  extern __shared__ float4 shared[];
  auto* factor = reinterpret_cast<float*>(shared);
  float* asymmetry = factor + kBlockColumns * kBlockColumns;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool active = thread / kLanes < part.rows;
  const int64_t row = active ? thread / kLanes : 0;
  float* weight = part.weight + row * part.stride + part.begin;
  RowValues w;
#pragma unroll
  for (int s = 0; s < kStripes; ++s) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int k = column_of(s, lane, j);
      w[s][j] = active && k < part.width ? weight[k] : 0.0f;
    }
  }
  RowGrid<kLevels> grid;
  grid.load(part.params + row * part.params_stride, max_code);
  const int64_t corner = part.begin * part.stride + part.begin;
  if (part.factor != nullptr)
    load_upper(part.factor + corner, part.stride, part.n_columns, part.width, factor);
  if (part.asymmetry != nullptr)
    load_upper(part.asymmetry + corner, part.stride, part.n_columns, part.width, asymmetry);
  __syncthreads();
  walk_stripes<kLevels>(part, grid, row, active, lane, factor, asymmetry, w);
  if (!active) return;
#pragma unroll
  for (int s = 0; s < kStripes; ++s) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int k = column_of(s, lane, j);
      if (k >= part.n_columns && k < part.width) weight[k] = w[s][j];
    }
  }
}

__global__ void fill_kernel(float* x, int64_t n, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = value;
}

__global__ void __launch_bounds__(kSolverThreads)
    objective_kernel(const float* weight, const float* target, const float* gradient, int64_t n,
                     DotOperand operand, double* partial) {
  __shared__ double sums[kSolverThreads];
  double sum = 0.0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const float base = target != nullptr ? target[i] : 0.0f;
    double x = static_cast<double>(weight[i]) - static_cast<double>(base);
    if (operand == DotOperand::kReflected)
      x += x - static_cast<double>(__bfloat162float(__float2bfloat16_rn(weight[i] - base)));
    sum += x * static_cast<double>(gradient[i]);
  }
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = sum;
  for (int half = kSolverThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) partial[blockIdx.x] = sums[0];
}

template <typename Part>
cudaError_t launch_rows(void (*kernel)(Part, float), size_t shared_bytes, cudaStream_t stream,
                        const Part& part, float max_code) {
  if (part.rows == 0) return cudaSuccess;
  int n_threads = 128;
  while (n_threads < kMaxThreads && part.rows * kLanes > n_threads * kManyBlocks) n_threads *= 2;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (status != cudaSuccess) return status;
  const int64_t n_blocks = (part.rows * kLanes + n_threads - 1) / n_threads;
  kernel<<<static_cast<unsigned>(n_blocks), n_threads, shared_bytes, stream>>>(part, max_code);
  return cudaGetLastError();
}

}  // namespace

cudaError_t walk_part(const WalkPart& part, const GridLevels& levels, cudaStream_t stream) {
  const size_t bytes =
      (part.factor != nullptr ? kTileBytes : 0) + (part.asymmetry != nullptr ? kTileBytes : 0);
  switch (levels.n_levels) {
    case 0:
      return launch_rows(walk_part_kernel<0>, bytes, stream, part, levels.max_code);
    case 2:
      return launch_rows(walk_part_kernel<2>, bytes, stream, part, levels.max_code);
    case 4:
      return launch_rows(walk_part_kernel<4>, bytes, stream, part, levels.max_code);
    case 8:
      return launch_rows(walk_part_kernel<8>, bytes, stream, part, levels.max_code);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t fill(float* x, int64_t n, float value, cudaStream_t stream) {
  return launch(fill_kernel, (n + kSolverThreads - 1) / kSolverThreads, kSolverThreads, stream, x,
                n, value);
}

cudaError_t objective_partials(const float* weight, const float* target, const float* gradient,
                               int64_t n, DotOperand operand, double* partial,
                               cudaStream_t stream) {
  return launch(objective_kernel, kObjectiveBlocks, kSolverThreads, stream, weight, target,
                gradient, n, operand, partial);
}

}  // namespace d2q::cuda
