// One thread block a row: the step that minimises J under the normal equations, and its acceptance.
#include <algorithm>

#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_refit_kernels.h"

namespace d2q::cuda {
namespace {

/// Added to the normal equations, as a share of their mean diagonal (METHOD.md §8.3).
constexpr double kRidge = 1e-5;
constexpr int kPanel = 16;  // unknowns factorised at a time

constexpr int kRowsAtOnce = 4;  // of a warp, so that their loads overlap

/// A row's system in global memory, and what the block shares while it works on it. The upper half
/// of `a` becomes the factor R (Rᵀ R = N) with the reciprocals of its diagonal, the lower half
/// keeps N.
struct Workspace {
  double* a;         // [n, ld], right-hand side in column n
  double* old;       // [n]
  double* diagonal;  // [n] of N
  double* step;      // [n]
  int n;
  int64_t ld;
  double (*staged)[kPanel];        // shared [kPanel][kPanel]
  double (*triangle)[kPanel + 1];  // shared [kPanel]: Rᵀ, rows in different banks
  double* inverse;                 // shared [kPanel] of R's diagonal
  double* sums;                    // shared, one a warp
  int* failed;                     // shared
};

/// Sum of every thread's x in a fixed order, the same in all threads.
__device__ double block_sum(const Workspace& w, double x) {
  const int thread = static_cast<int>(threadIdx.x);
  x = lane_sum<kWarp>(x);
  __syncthreads();
  if (thread % kWarp == 0) w.sums[thread / kWarp] = x;
  __syncthreads();
  double sum = 0.0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / kWarp; ++i) sum += w.sums[i];
  return sum;
}

/// body(u, Σ N[u, v] x[v]) for all u, each by one thread; the sum is over v < length(u).
template <typename Length, typename Body>
__device__ void for_products(const Workspace& w, const double* x, const Length& length,
                             const Body& body) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int n_warps = static_cast<int>(blockDim.x) / kWarp;
  for (int first = thread / kWarp * kRowsAtOnce; first < w.n; first += n_warps * kRowsAtOnce) {
    const int count = min(kRowsAtOnce, w.n - first);
    double sums[kRowsAtOnce] = {};
    for (int v = lane; v < length(first + count - 1); v += kWarp) {
      const double factor = x[v];
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        if (i < count && v < length(first + i)) sums[i] += w.a[(first + i) * w.ld + v] * factor;
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const double sum = lane_sum<kWarp>(sums[i]);
      if (lane == i && i < count) body(first + i, sum);
    }
  }
}

/// Right-hand side minus N·old, so that the ridge pulls towards the old parameters and not towards
/// 0: at 4 bits and more J is so small that the latter would show. Then the ridge. The residual is
/// also left in `step`.
__device__ void prepare(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  for_products(
      w, w.old, [&](int) { return w.n; }, [&](int u, double sum) { w.a[u * w.ld + w.n] -= sum; });
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

/// One warp: Cholesky of a panel's [width, width] matrix. On entry lane r holds column r of the
/// panel's rows, the first `width` lanes those of the matrix; on return the same of R. What the
/// other columns need of it goes to `triangle` and `inverse`.
__device__ void factorise_triangle(const Workspace& w, int width, double (&x)[kPanel]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int j = 0; j < kPanel; ++j) {
    if (j >= width) break;
    const double pivot = __shfl_sync(kAllLanes, x[j], j);
    if (!(pivot > 0.0)) {
      if (lane == 0) *w.failed = 1;
      return;  // the whole warp
    }
    const double inverse = rsqrt(pivot);
    x[j] *= inverse;
    if (lane == j) w.inverse[j] = inverse;
#pragma unroll
    for (int c = j + 1; c < kPanel; ++c) x[c] -= x[j] * __shfl_sync(kAllLanes, x[j], c);
  }
  if (lane >= width) return;
#pragma unroll
  for (int c = 0; c < kPanel; ++c) w.triangle[lane][c] = x[c];
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
      const bool with_triangle = chunk == first && thread < kWarp;
      if (with_triangle) factorise_triangle(w, width, x);
      if (chunk == first) {
        __syncthreads();
        if (*w.failed != 0) return false;
      }
      if (!has_column) continue;
#pragma unroll
      for (int c = 0; c < kPanel; ++c) {
        if (c >= width) break;
        if (!with_triangle) {
          double sum = x[c];
#pragma unroll
          for (int k = 0; k < c; ++k) sum -= w.triangle[c][k] * x[k];
          x[c] = sum * w.inverse[c];
        }
        if (r >= first + c) w.a[(first + c) * w.ld + r] = r == first + c ? w.inverse[c] : x[c];
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
    // The panel's triangle, while the rest of its rows is met by what is known of x.
    double row[kPanel];
    if (thread < kWarp) {
#pragma unroll
      for (int i = 0; i < kPanel; ++i)
        row[i] = i < width && lane <= i ? w.a[(first + lane) * w.ld + first + i] : 0.0;
    }
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
#pragma unroll
      for (int i = kPanel - 1; i >= 0; --i) {
        if (i >= width) continue;
        const double x = __shfl_sync(kAllLanes, y * row[i], i);  // the diagonal is a reciprocal
        if (lane < i) y -= row[i] * x;
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
  double change = 0.0;
  for (int u = thread; u < w.n; u += n_threads) {
    const double delta = w.a[u * w.ld + w.n] - w.old[u];
    change += delta * (w.diagonal[u] * delta - 2.0 * w.step[u]);
    w.step[u] = delta;
  }
  __syncthreads();
  for_products(
      w, w.step, [](int u) { return u; },
      [&](int u, double sum) { change += 2.0 * w.step[u] * sum; });
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
  __shared__ double triangle[kPanel][kPanel + 1];
  __shared__ double inverse[kPanel];
  __shared__ double sums[kSolverThreads / kWarp];
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
                    inverse,
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
  const int n_threads =
      std::min(kSolverThreads, (batch.unknowns() + 1 + kWarp - 1) / kWarp * kWarp);
  return launch(solve_refit_kernel, batch.rows, n_threads, stream, batch);
}

}  // namespace d2q::cuda
