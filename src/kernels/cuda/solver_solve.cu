// One thread block a row: the step that minimises J under the normal equations, and its acceptance.
#include <algorithm>

#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_refit_kernels.h"

namespace d2q::cuda {
namespace {

/// Added to the normal equations, as a share of their mean diagonal (METHOD.md §8.3).
constexpr double kRidge = 1e-5;
/// Rounding in f32 may leave nothing of a pivot, where two planes of a group say the same: at least
/// this share of its diagonal stays.
constexpr float kSmallestPivot = 0x1p-20f;
constexpr int kPanel = 16;   // unknowns factorised at a time
constexpr int kColumns = 2;  // neighbouring ones of a thread
constexpr int kMaxThreads = 128;

constexpr int kRowsAtOnce = 4;  // of a warp, so that their loads overlap

/// A row's system in global memory, and what the block shares while it works on it. The upper half
/// of `a` becomes the factor R (Rᵀ R = N) with the reciprocals of its diagonal, the lower half
/// keeps N. Sums of products with the old unknowns and of the objective are in f64.
struct Workspace {
  float* a;          // [n, ld], right-hand side in column n
  double* old;       // [n]
  double* diagonal;  // [n] of N
  double* step;      // [n]
  double* solution;  // [n]
  int n;
  int ld;
  float (*staged)[kPanel][kPanel];  // shared [2][kPanel][kPanel]: a tile of R, and the next one
  float (*triangle)[kPanel];        // shared [kPanel][kPanel]: R of the panel's own columns
  float* inverse;                   // shared [kPanel] of R's diagonal
  double* sums;                     // shared, one a warp
  int* failed;                      // shared
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
    for (int v = 4 * lane; v < length(first + count - 1); v += 4 * kWarp) {
      double factor[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) factor[e] = v + e < w.n ? x[v + e] : 0.0;
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        if (i >= count) break;
        const float4 four = *reinterpret_cast<const float4*>(w.a + (first + i) * w.ld + v);
        const float values[4] = {four.x, four.y, four.z, four.w};
        // What lies beyond the sum belongs to others.
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (v + e < length(first + i)) sums[i] += static_cast<double>(values[e]) * factor[e];
        }
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
      w, w.old, [&](int) { return w.n; },
      [&](int u, double sum) {
        float& right = w.a[u * w.ld + w.n];
        w.step[u] = static_cast<double>(right) - sum;
        right = static_cast<float>(w.step[u]);
      });
  double trace = 0.0;
  for (int u = thread; u < w.n; u += n_threads) {
    w.diagonal[u] = static_cast<double>(w.a[u * w.ld + u]);
    trace += w.diagonal[u];
  }
  // Everybody has read the diagonal once the sum is there.
  const double ridge = kRidge * block_sum(w, trace) / static_cast<double>(w.n);
  for (int u = thread; u < w.n; u += n_threads)
    w.a[u * w.ld + u] = static_cast<float>(w.diagonal[u] + ridge);
  __syncthreads();
}

/// x of two neighbouring columns of a panel's rows.
using PanelColumns = float[kColumns][kPanel];

/// One warp: Cholesky of a panel's [width, width] matrix. On entry lane l holds columns 2l and
/// 2l + 1 of the panel's rows, the first ones those of the matrix; on return the same of R. What
/// the other columns need of it goes to `triangle` and `inverse`.
__device__ void factorise_triangle(const Workspace& w, int first, int width, PanelColumns& x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float smallest[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = lane * kColumns + i;
    smallest[i] =
        column < width ? kSmallestPivot * static_cast<float>(w.diagonal[first + column]) : 0.0f;
  }
#pragma unroll
  for (int j = 0; j < kPanel; ++j) {
    if (j >= width) break;
    const float own = fmaxf(x[j % kColumns][j], smallest[j % kColumns]);
    const float pivot = __shfl_sync(kAllLanes, own, j / kColumns);
    if (!(pivot > 0.0f)) {
      if (lane == 0) *w.failed = 1;
      return;  // the whole warp
    }
    const float inverse = rsqrtf(pivot);
    if (lane == 0) w.inverse[j] = inverse;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) x[i][j] *= inverse;
#pragma unroll
    for (int c = j + 1; c < kPanel; ++c) {
      const float factor = __shfl_sync(kAllLanes, x[c % kColumns][j], c / kColumns);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) x[i][c] -= factor * x[i][j];
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    const int column = lane * kColumns + i;
    if (column >= width) break;
#pragma unroll
    for (int c = 0; c < kPanel; ++c) w.triangle[c][column] = x[i][c];
  }
}

/// Left-looking Cholesky, kPanel unknowns at a time. A thread keeps two columns of the panel's rows
/// of R in registers; the right-hand side takes part as column n, which solves Rᵀy = b and leaves y
/// in `solution`. False (in every thread) when a pivot is not positive.
__device__ bool factorise(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  for (int first = 0; first < w.n; first += kPanel) {
    const int width = min(kPanel, w.n - first);
    for (int chunk = first; chunk <= w.n; chunk += kColumns * n_threads) {
      const int r = chunk + kColumns * thread;
      const bool has_column = r <= w.n;
      // The column after the right-hand side is there, and nobody's.
      const auto two = [&](int row) {
        return has_column ? *reinterpret_cast<const float2*>(w.a + row * w.ld + r) : float2{};
      };
      // A tile of the panel's own columns, four elements each by the first threads.
      const int tile_row = thread / (kPanel / 4), tile_column = thread % (kPanel / 4) * 4;
      const auto four = [&](int k0) {
        return thread < kPanel * kPanel / 4
                   ? *reinterpret_cast<const float4*>(w.a + (k0 + tile_row) * w.ld + first +
                                                      tile_column)
                   : float4{};
      };
      PanelColumns x;
#pragma unroll
      for (int c = 0; c < kPanel; ++c) {
        const float2 value = c < width ? two(first + c) : float2{};
        x[0][c] = r >= first + c ? value.x : 0.0f;
        x[1][c] = r + 1 >= first + c && r < w.n ? value.y : 0.0f;
      }
      float2 value[kPanel];
      float4 tile = {};
      if (first > 0) {
        tile = four(0);
#pragma unroll
        for (int k = 0; k < kPanel; ++k) value[k] = two(k);
      }
      for (int k0 = 0; k0 < first; k0 += kPanel) {
        float(*staged)[kPanel] = w.staged[k0 / kPanel % 2];
        if (thread < kPanel * kPanel / 4)
          *reinterpret_cast<float4*>(&staged[tile_row][tile_column]) = tile;
        // Those who still read the other tile are at most one round behind.
        __syncthreads();
        const int next = k0 + kPanel;
        if (next < first) tile = four(next);
#pragma unroll
        for (int k = 0; k < kPanel; ++k) {
          const float2 factor = value[k];
          if (next < first) value[k] = two(next + k);
#pragma unroll
          for (int c = 0; c < kPanel; ++c) {
            x[0][c] -= staged[k][c] * factor.x;
            x[1][c] -= staged[k][c] * factor.y;
          }
        }
      }
      const bool with_triangle = chunk == first && thread < kWarp;
      if (with_triangle) factorise_triangle(w, first, width, x);
      if (chunk == first) {
        __syncthreads();
        if (*w.failed != 0) return false;
      } else if (first > 0) {
        __syncthreads();  // the last tile has been read
      }
      if (!has_column) continue;
      if (!with_triangle) {
#pragma unroll
        for (int j = 0; j < kPanel; ++j) {
          if (j >= width) break;
          const float inverse = w.inverse[j];
          x[0][j] *= inverse;
          x[1][j] *= inverse;
#pragma unroll
          for (int c = j + 1; c < kPanel; ++c) {
            x[0][c] -= w.triangle[j][c] * x[0][j];
            x[1][c] -= w.triangle[j][c] * x[1][j];
          }
        }
      }
#pragma unroll
      for (int c = 0; c < kPanel; ++c) {
        if (c >= width) break;
        float* row = w.a + (first + c) * w.ld;
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          if (r + i == first + c) row[r + i] = w.inverse[c];
          if (r + i > first + c && r + i < w.n) row[r + i] = x[i][c];
          // The K-loop of later panels reads the right-hand side there.
          if (r + i == w.n) {
            row[r + i] = x[i][c];
            w.solution[first + c] = static_cast<double>(x[i][c]);
          }
        }
      }
    }
    // The next panel reads this one's rows, and its triangle takes the place of this one's.
    __syncthreads();
  }
  return true;
}

/// Solves R·x = y, y in `solution`, and leaves x there.
__device__ void substitute_back(const Workspace& w) {
  const int thread = static_cast<int>(threadIdx.x);
  const int n_threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp;
  for (int first = (w.n - 1) / kPanel * kPanel; first >= 0; first -= kPanel) {
    const int width = min(kPanel, w.n - first);
    // The panel's triangle, while the rest of its rows is met by what is known of x.
    float row[kPanel];
    if (thread < kWarp) {
#pragma unroll
      for (int i = 0; i < kPanel; ++i)
        row[i] = i < width && lane <= i ? w.a[(first + lane) * w.ld + first + i] : 0.0f;
    }
    for (int i = first + thread / kWarp; i < first + width; i += n_threads / kWarp) {
      double sum = 0.0;
      for (int k = first + width + lane; k < w.n; k += kWarp)
        sum += static_cast<double>(w.a[i * w.ld + k]) * w.solution[k];
      sum = lane_sum<kWarp>(sum);
      if (lane == 0) w.solution[i] -= sum;
    }
    __syncthreads();
    if (thread < kWarp) {
      double y = lane < width ? w.solution[first + lane] : 0.0;
#pragma unroll
      for (int i = kPanel - 1; i >= 0; --i) {
        if (i >= width) continue;
        const double factor = static_cast<double>(row[i]);
        const double x = __shfl_sync(kAllLanes, y * factor, i);  // the diagonal is a reciprocal
        if (lane < i) y -= factor * x;
        if (lane == i) y = x;
      }
      if (lane < width) w.solution[first + lane] = y;
    }
    __syncthreads();
  }
}

__device__ double round_unknown(double x) {
  return static_cast<double>(round_to_half(static_cast<float>(x)));
}

/// Rounds the new unknowns (old + solution) to what fp16 parameters give; false when they have
/// none.
__device__ bool round_to_stored(const RefitBatch& batch, const Workspace& w) {
  bool good = true;
  for (int g = static_cast<int>(threadIdx.x); g < batch.n_groups;
       g += static_cast<int>(blockDim.x)) {
    for (int k = 0; k < batch.n_params; ++k) {
      const int u = g * batch.n_params + k;
      double& x = w.solution[u];
      x += w.old[u];
      if (!batch.uniform) {
        x = round_unknown(x);
      } else if (k == 0) {
        x = round_unknown(x);
        good = good && x > 0.0;
      } else {
        const double scale = w.solution[u - 1];
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
    const double delta = w.solution[u] - w.old[u];
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
  const auto unknown = [&](int g, int k) { return w.solution[g * batch.n_params + k]; };
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

__global__ void __launch_bounds__(kMaxThreads, 4) solve_refit_kernel(const RefitBatch batch) {
  __shared__ __align__(16) float staged[2][kPanel][kPanel];
  __shared__ __align__(16) float triangle[kPanel][kPanel];
  __shared__ float inverse[kPanel];
  __shared__ double sums[kMaxThreads / kWarp];
  __shared__ int failed;
  const int64_t row = blockIdx.x;
  const int n = batch.unknowns();
  double* vectors = batch.vectors + row * kRefitVectors * n;
  const auto ld = static_cast<int>(batch.system_stride());
  const Workspace w{.a = batch.systems + row * n * batch.system_stride(),
                    .old = vectors,
                    .diagonal = vectors + n,
                    .step = vectors + 2 * n,
                    .solution = vectors + 3 * n,
                    .n = n,
                    .ld = ld,
                    .staged = staged,
                    .triangle = triangle,
                    .inverse = inverse,
                    .sums = sums,
                    .failed = &failed};
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
  // Two warps at least copy a tile.
  const int warps = (batch.unknowns() + kColumns * kWarp) / (kColumns * kWarp);
  const int n_threads = std::clamp(warps * kWarp, 2 * kWarp, kMaxThreads);
  return launch(solve_refit_kernel, batch.rows, n_threads, stream, batch);
}

}  // namespace d2q::cuda
