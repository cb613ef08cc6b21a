// One thread block a row: the step that minimises J under the normal equations, and its acceptance.
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_refit_kernels.h"

namespace d2q::cuda {
namespace {

/// Added to the normal equations, as a share of their mean diagonal (METHOD.md §8.3).
constexpr double kRidge = 1e-5;
constexpr int kPanel = 16;  // unknowns factorised at a time

/// A row's system in global memory, and what the block shares while it works on it. The upper half
/// of `a` becomes the factor R (Rᵀ R = N), the lower half keeps N.
struct Workspace {
  double* a;         // [n, ld], right-hand side in column n
  double* old;       // [n]
  double* diagonal;  // [n] of N
  double* step;      // [n]
  int n;
  int64_t ld;
  double (*staged)[kPanel];    // shared [kPanel][kPanel]
  double (*triangle)[kPanel];  // shared [kPanel][kPanel]
  double* sums;                // shared [kSolverThreads]
  int* failed;                 // shared
};

/// Sum of every thread's x in a fixed order, the same in all threads.
__device__ double block_sum(const Workspace& w, double x) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  w.sums[thread] = x;
  for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) w.sums[thread] += w.sums[thread + half];
  }
  __syncthreads();
  return w.sums[0];
}

/// Right-hand side minus N·old, so that the ridge pulls towards the old parameters and not towards
/// 0: at 4 bits and more J is so small that the latter would show. Then the ridge. The residual is
/// also left in `step`.
__device__ void prepare(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp;
  for (int u = thread / kWarp; u < w.n; u += n_threads / kWarp) {
    double sum = 0.0;
    for (int v = lane; v < w.n; v += kWarp) sum += w.a[u * w.ld + v] * w.old[v];
    sum = lane_sum<kWarp>(sum);
    if (lane == 0) w.a[u * w.ld + w.n] -= sum;
  }
  double trace = 0.0;
  for (int u = thread; u < w.n; u += n_threads) {
    w.diagonal[u] = w.a[u * w.ld + u];
    trace += w.diagonal[u];
  }
  const double ridge = kRidge * block_sum(w, trace) / static_cast<double>(w.n);
  for (int u = thread; u < w.n; u += n_threads) {
    w.a[u * w.ld + u] += ridge;
    w.step[u] = w.a[u * w.ld + w.n];
  }
  __syncthreads();
}

/// One warp: Cholesky of the lower triangle of `triangle` [width, width] in place.
__device__ void factorise_triangle(const Workspace& w, int width) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int j = 0; j < width; ++j) {
    const double pivot = w.triangle[j][j];
    __syncwarp();
    if (!(pivot > 0.0)) {
      if (lane == 0) *w.failed = 1;
      return;  // the whole warp
    }
    const double root = sqrt(pivot);
    if (lane == j) w.triangle[j][j] = root;
    if (lane > j && lane < width) w.triangle[lane][j] /= root;
    __syncwarp();
    if (lane > j && lane < width) {
      for (int c = j + 1; c <= lane; ++c)
        w.triangle[lane][c] -= w.triangle[lane][j] * w.triangle[c][j];
    }
    __syncwarp();
  }
}

/// Left-looking Cholesky, kPanel unknowns at a time. Thread t keeps column r = first + t of the
/// panel's rows of R in registers; the right-hand side takes part as column n, which solves Rᵀy =
/// b. False (in every thread) when a pivot is not positive.
__device__ bool factorise(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  for (int first = 0; first < w.n; first += kPanel) {
    const int width = min(kPanel, w.n - first);
    for (int chunk = first; chunk <= w.n; chunk += n_threads) {
      const int r = chunk + thread;
      const bool has_column = r <= w.n;
      double x[kPanel];
#pragma unroll
      for (int c = 0; c < kPanel; ++c)
        x[c] = has_column && c < width && r >= first + c ? w.a[(first + c) * w.ld + r] : 0.0;
      for (int k0 = 0; k0 < first; k0 += kPanel) {
        double value[kPanel];
#pragma unroll
        for (int k = 0; k < kPanel; ++k) value[k] = has_column ? w.a[(k0 + k) * w.ld + r] : 0.0;
        __syncthreads();
        for (int i = thread; i < kPanel * kPanel; i += n_threads) {
          const int c = i % kPanel;
          w.staged[i / kPanel][c] = c < width ? w.a[(k0 + i / kPanel) * w.ld + first + c] : 0.0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kPanel; ++k) {
#pragma unroll
          for (int c = 0; c < kPanel; ++c) x[c] -= w.staged[k][c] * value[k];
        }
      }
      if (chunk == first) {
        if (thread < width) {
#pragma unroll
          for (int c = 0; c < kPanel; ++c) w.triangle[thread][c] = x[c];
        }
        __syncthreads();
        if (thread < kWarp) factorise_triangle(w, width);
        __syncthreads();
        if (*w.failed != 0) return false;
      }
      if (has_column) {
        // Column r of R's panel rows: the triangle's own columns come out as the factor itself.
#pragma unroll
        for (int c = 0; c < kPanel; ++c) {
          if (c >= width) break;
          double sum = x[c];
#pragma unroll
          for (int k = 0; k < c; ++k) sum -= w.triangle[c][k] * x[k];
          x[c] = sum / w.triangle[c][c];
          if (r > first + c) w.a[(first + c) * w.ld + r] = x[c];
          if (r == first + c) w.a[(first + c) * w.ld + r] = w.triangle[c][c];
        }
      }
    }
    // The next panel reads this one's rows, and its triangle takes the place of this one's.
    __syncthreads();
  }
  return true;
}

/// Solves R·x = y, y in column n, and leaves x there.
__device__ void substitute_back(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp;
  for (int first = (w.n - 1) / kPanel * kPanel; first >= 0; first -= kPanel) {
    const int width = min(kPanel, w.n - first);
    for (int i = first + thread / kWarp; i < first + width; i += n_threads / kWarp) {
      double sum = 0.0;
      for (int k = first + width + lane; k < w.n; k += kWarp)
        sum += w.a[i * w.ld + k] * w.a[k * w.ld + w.n];
      sum = lane_sum<kWarp>(sum);
      if (lane == 0) w.a[i * w.ld + w.n] -= sum;
    }
    __syncthreads();
    if (thread < kWarp) {
      double y = lane < width ? w.a[(first + lane) * w.ld + w.n] : 0.0;
      for (int i = width - 1; i >= 0; --i) {
        const double x = __shfl_sync(kAllLanes, y, i) / w.a[(first + i) * w.ld + first + i];
        if (lane < i) y -= w.a[(first + lane) * w.ld + first + i] * x;
        if (lane == i) y = x;
      }
      if (lane < width) w.a[(first + lane) * w.ld + w.n] = y;
    }
    __syncthreads();
  }
}

__device__ double round_unknown(double x) {
  return static_cast<double>(round_to_half(static_cast<float>(x)));
}

/// Rounds the new unknowns (in column n: old + step) to what fp16 parameters give; false when they
/// have none.
__device__ bool round_to_stored(const RefitBatch& batch, const Workspace& w) {
  bool good = true;
  for (int g = static_cast<int>(threadIdx.x); g < batch.n_groups;
       g += static_cast<int>(blockDim.x)) {
    for (int k = 0; k < batch.n_params; ++k) {
      const int u = g * batch.n_params + k;
      double& x = w.a[u * w.ld + w.n];
      x += w.old[u];
      if (!batch.uniform) {
        x = round_unknown(x);
      } else if (k == 0) {
        x = round_unknown(x);
        good = good && x > 0.0;
      } else {
        const double scale = w.a[(u - 1) * w.ld + w.n];
        x = -scale * round_unknown(-x / scale);
      }
      good = good && isfinite(x);
    }
  }
  return good;
}

/// Change of J by the rounded step δ, with the residual b − N·old in `step` on entry and δ on
/// return: δᵀNδ − 2δᵀ(b − N·old).
__device__ double objective_change(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp;
  double change = 0.0;
  for (int u = thread; u < w.n; u += n_threads) {
    const double delta = w.a[u * w.ld + w.n] - w.old[u];
    change += delta * (w.diagonal[u] * delta - 2.0 * w.step[u]);
    w.step[u] = delta;
  }
  __syncthreads();
  for (int u = thread / kWarp; u < w.n; u += n_threads / kWarp) {
    double sum = 0.0;
    for (int v = lane; v < u; v += kWarp) sum += w.a[u * w.ld + v] * w.step[v];
    change += 2.0 * w.step[u] * sum;  // each lane its share
  }
  return block_sum(w, change);
}

/// Parameters, codes (a negative r flips its plane) and ŵ of a row from rounded unknowns.
__device__ void store(const RefitBatch& batch, const Workspace& w, int64_t row) {
  const int n_threads = static_cast<int>(blockDim.x);
  const auto unknown = [&](int g, int k) { return w.a[(g * batch.n_params + k) * w.ld + w.n]; };
  const auto parameter = [&](int g, int k) {
    if (!batch.uniform) return static_cast<float>(fabs(unknown(g, k)));
    return static_cast<float>(k == 0 ? unknown(g, 0) : -unknown(g, 1) / unknown(g, 0));
  };
  float* params = batch.params + row * batch.params_stride;
  for (int u = static_cast<int>(threadIdx.x); u < w.n; u += n_threads) {
    const int g = u / batch.n_params;
    const int k = u % batch.n_params;
    params[batch.groups[g].first_param + k] = parameter(g, k);
  }
  for (int64_t j = threadIdx.x; j < batch.stride; j += n_threads) {
    const int g = batch.group_of_column[j];
    const int64_t place = row * batch.stride + j;
    int code = batch.codes[place];
    if (batch.uniform) {
      batch.weight[place] = parameter(g, 0) * (static_cast<float>(code) - parameter(g, 1));
      continue;
    }
    float level = 0.0f;
    for (int k = 0; k < batch.n_params; ++k) {
      if (unknown(g, k) < 0.0) code ^= 1 << k;
      const float r = parameter(g, k);
      level += (code >> k & 1) != 0 ? r : -r;
    }
    batch.codes[place] = static_cast<uint8_t>(code);
    batch.weight[place] = batch.column_scale[j] * level;
  }
}

__global__ void __launch_bounds__(kSolverThreads, 2) solve_refit_kernel(const RefitBatch batch) {
  __shared__ __align__(16) double staged[kPanel][kPanel];
  __shared__ double triangle[kPanel][kPanel];
  __shared__ double sums[kSolverThreads];
  __shared__ int failed;
  const int64_t row = blockIdx.x;
  const int n = batch.unknowns();
  double* vectors = batch.vectors + row * kRefitVectors * n;
  const int64_t ld = n + 1;
  const Workspace w{batch.systems + row * n * ld,
                    vectors,
                    vectors + n,
                    vectors + 2 * n,
                    n,
                    ld,
                    staged,
                    triangle,
                    sums,
                    &failed};
  if (threadIdx.x == 0) failed = 0;
  __syncthreads();
  prepare(w);
  if (!factorise(w)) return;
  substitute_back(w);
  if (!round_to_stored(batch, w)) failed = 1;
  __syncthreads();
  if (failed != 0) return;
  // Rounding to fp16 may cost more than a nearly converged row gains.
  const double change = objective_change(w);
  if (!(change < 0.0)) return;
  store(batch, w, row);
  if (threadIdx.x == 0) batch.changes[row] = change;
}

}  // namespace

cudaError_t solve_refit(const RefitBatch& batch, cudaStream_t stream) {
  int n_threads = 64;
  while (n_threads < kSolverThreads && n_threads < batch.unknowns() + 1) n_threads *= 2;
  return launch(solve_refit_kernel, batch.rows, n_threads, stream, batch);
}

}  // namespace d2q::cuda
