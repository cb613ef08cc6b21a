#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_walk_kernels.h"

namespace d2q::cuda {
namespace {

constexpr int kColumns = kBlockColumns / kRowLanes;  // of a block, in one thread

/// kRowLanes threads a row, column k in register k / kRowLanes of lane k % kRowLanes. All lanes
/// round their own column in every step, but only the one whose turn it is counts: its error goes
/// to the others by a shuffle. No lane leaves early, for the shuffles need the whole warp.
template <int kLevels>
__global__ void __launch_bounds__(kSolverThreads)
    walk_part_kernel(const WalkPart part, float max_code) {
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool active = thread / kRowLanes < part.rows;
  const int64_t row = active ? thread / kRowLanes : 0;
  float* weight = part.weight + row * part.stride + part.begin;
  float w[kColumns];
#pragma unroll
  for (int m = 0; m < kColumns; ++m) {
    const int k = m * kRowLanes + lane;
    w[m] = active && k < part.width ? weight[k] : 0.0f;
  }
  RowGrid<kLevels> grid;
  grid.load(part.params + row * part.params_stride, max_code);
  const int64_t diagonal = part.begin * part.stride + part.begin;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    if (i * kRowLanes >= part.n_columns) break;
    const int own = i * kRowLanes + lane;
    const bool has_column = own < part.n_columns;
    const float c = has_column ? part.column_scale[part.begin + own] : 1.0f;
    float q = 0.0f;
    int code = 0;
    float error = 0.0f;
    if (part.factor == nullptr) {
      grid.nearest(c, w[i], q, code);
    } else {
      const float inverse =
          has_column ? 1.0f / part.factor[diagonal + own * part.stride + own] : 0.0f;
      const int n_steps = min(kRowLanes, part.n_columns - i * kRowLanes);
      for (int step = 0; step < n_steps; ++step) {
        const int column = i * kRowLanes + step;
        const float* u_row = part.factor + diagonal + column * part.stride;
        float u[kColumns];
#pragma unroll
        for (int m = i; m < kColumns; ++m) {
          const int k = m * kRowLanes + lane;
          u[m] = k > column && k < part.width ? u_row[k] : 0.0f;
        }
        float level;
        int level_code;
        grid.nearest(c, w[i], level, level_code);
        const float e = (w[i] - level) * inverse;
        if (step == lane) {
          q = level;
          code = level_code;
          error = e;
        }
        const float e_now = __shfl_sync(kAllLanes, e, step, kRowLanes);
        if (part.asymmetry == nullptr) {
#pragma unroll
          for (int m = i; m < kColumns; ++m) w[m] -= e_now * u[m];
        } else {
          const float w_now = __shfl_sync(kAllLanes, w[i], step, kRowLanes);
          const float* p_row = part.asymmetry + diagonal + column * part.stride;
#pragma unroll
          for (int m = i; m < kColumns; ++m) {
            const int k = m * kRowLanes + lane;
            const float p = k > column && k < part.width ? p_row[k] : 0.0f;
            w[m] = w[m] - e_now * u[m] + w_now * p;
          }
        }
      }
    }
    if (active && has_column) {
      weight[own] = q;
      part.codes[row * part.stride + part.begin + own] = static_cast<uint8_t>(code);
      if (part.negated_errors != nullptr) part.negated_errors[row * kBlockColumns + own] = -error;
      if (part.finished != nullptr) part.finished[row * kBlockColumns + own] = q;
    }
  }
  if (!active) return;
#pragma unroll
  for (int m = 0; m < kColumns; ++m) {
    const int k = m * kRowLanes + lane;
    if (k >= part.n_columns && k < part.width) weight[k] = w[m];
  }
}

/// The same arrangement with the gradient in the registers.
template <int kLevels>
__global__ void __launch_bounds__(kSolverThreads)
    descend_part_kernel(const DescentPart part, float max_code) {
  const int lane = static_cast<int>(threadIdx.x) % kRowLanes;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool active = thread / kRowLanes < part.rows;
  const int64_t row = active ? thread / kRowLanes : 0;
  const int64_t place = row * part.stride + part.begin;
  float g[kColumns];
#pragma unroll
  for (int m = 0; m < kColumns; ++m) {
    const int k = m * kRowLanes + lane;
    g[m] = active && k < part.n_columns ? part.gradient[place + k] : 0.0f;
  }
  double objective_change = 0.0;
  const int64_t diagonal = part.begin * part.stride + part.begin;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    if (i * kRowLanes >= part.n_columns) break;
    const int own = i * kRowLanes + lane;
    const bool has_column = own < part.n_columns;
    // A lane without a column repeats the last one's grid and has no turn.
    const int64_t column_of_grid = part.begin + (has_column ? own : part.n_columns - 1);
    RowGrid<kLevels> grid;
    grid.load(part.params + row * part.params_stride + part.first_param[column_of_grid], max_code);
    const float c = part.column_scale[column_of_grid];
    const float inverse =
        has_column ? 1.0f / part.hessian[diagonal + own * part.stride + own] : 0.0f;
    const float old = active && has_column ? part.weight[place + own] : 0.0f;
    float q = old;
    int code = active && has_column ? part.codes[place + own] : 0;
    const int n_steps = min(kRowLanes, part.n_columns - i * kRowLanes);
    for (int step = 0; step < n_steps; ++step) {
      const int column = i * kRowLanes + step;
      const float* h_row = part.hessian + diagonal + column * part.stride;
      float h[kColumns];
#pragma unroll
      for (int m = i; m < kColumns; ++m) {
        const int k = m * kRowLanes + lane;
        h[m] = k > column && k < part.n_columns ? h_row[k] : 0.0f;
      }
      const float minimum = old - g[i] * inverse;
      float level;
      int level_code;
      grid.nearest(c, minimum, level, level_code);
      // Rounding must not trade a level for an equally good one: J would wander without falling.
      const bool nearer = fabsf(minimum - level) < fabsf(minimum - old);
      const float change = nearer ? level - old : 0.0f;
      if (step == lane && nearer) {
        q = level;
        code = level_code;
      }
      const float change_now = __shfl_sync(kAllLanes, change, step, kRowLanes);
#pragma unroll
      for (int m = i; m < kColumns; ++m) g[m] += change_now * h[m];
    }
    if (active && has_column) {
      part.weight[place + own] = q;
      part.codes[place + own] = static_cast<uint8_t>(code);
      part.change[row * kBlockColumns + own] = q - old;
      // No later column has changed g[i] since this one's turn.
      const double step = static_cast<double>(q) - static_cast<double>(old);
      const double curvature =
          static_cast<double>(part.hessian[diagonal + own * part.stride + own]);
      objective_change += step * (2.0 * static_cast<double>(g[i]) + step * curvature);
    }
  }
  objective_change = lane_sum<kRowLanes>(objective_change);
  if (active && lane == 0) part.changes[row] += objective_change;
}

__global__ void fill_kernel(float* x, int64_t n, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = value;
}

__global__ void __launch_bounds__(kSolverThreads)
    objective_kernel(const float* weight, const float* target, const float* gradient, int64_t n,
                     double* partial) {
  __shared__ double sums[kSolverThreads];
  double sum = 0.0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    const double base = target != nullptr ? static_cast<double>(target[i]) : 0.0;
    sum += (static_cast<double>(weight[i]) - base) * static_cast<double>(gradient[i]);
  }
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = sum;
  for (int half = kSolverThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) partial[blockIdx.x] = sums[0];
}

}  // namespace

cudaError_t walk_part(const WalkPart& part, const GridLevels& levels, cudaStream_t stream) {
  const int64_t n_blocks = row_blocks(part.rows);
  switch (levels.n_levels) {
    case 0:
      return launch(walk_part_kernel<0>, n_blocks, kSolverThreads, stream, part, levels.max_code);
    case 2:
      return launch(walk_part_kernel<2>, n_blocks, kSolverThreads, stream, part, levels.max_code);
    case 4:
      return launch(walk_part_kernel<4>, n_blocks, kSolverThreads, stream, part, levels.max_code);
    case 8:
      return launch(walk_part_kernel<8>, n_blocks, kSolverThreads, stream, part, levels.max_code);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t descend_part(const DescentPart& part, const GridLevels& levels, cudaStream_t stream) {
  const int64_t n_blocks = row_blocks(part.rows);
  switch (levels.n_levels) {
    case 0:
      return launch(descend_part_kernel<0>, n_blocks, kSolverThreads, stream, part,
                    levels.max_code);
    case 2:
      return launch(descend_part_kernel<2>, n_blocks, kSolverThreads, stream, part,
                    levels.max_code);
    case 4:
      return launch(descend_part_kernel<4>, n_blocks, kSolverThreads, stream, part,
                    levels.max_code);
    case 8:
      return launch(descend_part_kernel<8>, n_blocks, kSolverThreads, stream, part,
                    levels.max_code);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t fill(float* x, int64_t n, float value, cudaStream_t stream) {
  return launch(fill_kernel, (n + kSolverThreads - 1) / kSolverThreads, kSolverThreads, stream, x,
                n, value);
}

cudaError_t objective_partials(const float* weight, const float* target, const float* gradient,
                               int64_t n, double* partial, cudaStream_t stream) {
  return launch(objective_kernel, kObjectiveBlocks, kSolverThreads, stream, weight, target,
                gradient, n, partial);
}

}  // namespace d2q::cuda
