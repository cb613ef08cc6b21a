// METHOD.md §8.4 within a block of columns: one thread a row, so that a column is rounded once and
// nothing is handed between threads. A row's gradient stays in registers for a stripe of columns;
// what earlier stripes changed is added when a stripe's turn comes, from shared memory, in the
// order of the columns.
#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_tile.cuh"
#include "kernels/cuda/solver_walk_kernels.h"

namespace d2q::cuda {
namespace {

constexpr int kStripe = 16;  // columns
/// All of them copy the tile; as many as there are rows in the block go on.
constexpr int kThreads = 256;

/// What all rows share of a column.
struct alignas(16) Column {
  float scale;
  float curvature;
  float inverse;  // of the curvature
  int first_param;
};

/// A row's values in a stripe.
struct Stripe {
  float gradient[kStripe];
  float weight[kStripe];
  unsigned codes[kStripe / 4];  // four each
};

constexpr size_t kSharedBytes = kTileBytes + kBlockColumns * (sizeof(Column) + sizeof(float));
/// Changes of a row.
constexpr size_t kRowBytes = kBlockColumns * sizeof(float);

__device__ int code_in(const Stripe& x, int j) {
  return static_cast<int>(x.codes[j / 4] >> j % 4 * 8 & 0xff);
}

/// `first` is the stripe's first column in the block, `place` the row's first weight there.
/// `aligned`: whole stripes lie on multiples of 16 bytes.
__device__ Stripe load_stripe(const DescentPart& part, int64_t place, int first, bool aligned) {
  Stripe x;
  if (aligned && first + kStripe <= part.n_columns) {
    const uint4 codes = *reinterpret_cast<const uint4*>(part.codes + place + first);
    x.codes[0] = codes.x, x.codes[1] = codes.y, x.codes[2] = codes.z, x.codes[3] = codes.w;
#pragma unroll
    for (int j = 0; j < kStripe; j += 4) {
      const float4 g = *reinterpret_cast<const float4*>(part.gradient + place + first + j);
      const float4 w = *reinterpret_cast<const float4*>(part.weight + place + first + j);
      x.gradient[j] = g.x, x.gradient[j + 1] = g.y, x.gradient[j + 2] = g.z;
      x.gradient[j + 3] = g.w;
      x.weight[j] = w.x, x.weight[j + 1] = w.y, x.weight[j + 2] = w.z, x.weight[j + 3] = w.w;
    }
    return x;
  }
#pragma unroll
  for (int j = 0; j < kStripe; ++j) {
    const bool has_column = first + j < part.n_columns;
    x.gradient[j] = has_column ? part.gradient[place + first + j] : 0.0f;
    x.weight[j] = has_column ? part.weight[place + first + j] : 0.0f;
    const unsigned code = has_column ? part.codes[place + first + j] : 0;
    x.codes[j / 4] = j % 4 == 0 ? code : x.codes[j / 4] | code << j % 4 * 8;
  }
  return x;
}

/// A step that does not fit stays the largest that does.
__device__ __half to_step(float x) {
  return __float2half_rn(clamp_to(x, -kLargestHalf, kLargestHalf));
}

__device__ unsigned two_steps(float x, float y) {
  const __half2 pair = __halves2half2(to_step(x), to_step(y));
  return *reinterpret_cast<const unsigned*>(&pair);
}

/// `changes` holds those of the stripe, `stride` apart, `roots` the columns' roots.
__device__ void store_stripe(const DescentPart& part, int64_t row, int first, bool aligned,
                             const Stripe& x, const float* changes, int stride, float row_scale,
                             const float* roots) {
  const int64_t place = row * part.stride + part.begin + first;
  __half* change = part.change + row * part.change_stride + first;
  if (aligned && first + kStripe <= part.n_columns) {
    *reinterpret_cast<uint4*>(part.codes + place) = {x.codes[0], x.codes[1], x.codes[2],
                                                     x.codes[3]};
#pragma unroll
    for (int j = 0; j < kStripe; j += 4)
      *reinterpret_cast<float4*>(part.weight + place + j) = {x.weight[j], x.weight[j + 1],
                                                             x.weight[j + 2], x.weight[j + 3]};
    const auto two = [&](int j) {
      return two_steps(changes[j * stride] * roots[j] * row_scale,
                       changes[(j + 1) * stride] * roots[j + 1] * row_scale);
    };
#pragma unroll
    for (int j = 0; j < kStripe; j += 8)
      *reinterpret_cast<uint4*>(change + j) = {two(j), two(j + 2), two(j + 4), two(j + 6)};
    return;
  }
#pragma unroll
  for (int j = 0; j < kStripe; ++j) {
    if (first + j >= part.n_columns) break;
    part.weight[place + j] = x.weight[j];
    part.codes[place + j] = static_cast<uint8_t>(code_in(x, j));
    change[j] = to_step(changes[j * stride] * roots[j] * row_scale);
  }
}

/// x += factor · columns of a row of the tile, from one of the stripe's on.
template <int kFirst>
__device__ void add_row(const float* row, float factor, float (&x)[kStripe]) {
  const auto* values = reinterpret_cast<const float4*>(row);
#pragma unroll
  for (int j = kFirst / 4 * 4; j < kStripe; j += 4) {
    const float4 h = values[j / 4];
    if (j >= kFirst) x[j] += factor * h.x;
    if (j + 1 >= kFirst) x[j + 1] += factor * h.y;
    if (j + 2 >= kFirst) x[j + 2] += factor * h.z;
    if (j + 3 >= kFirst) x[j + 3] += factor * h.w;
  }
}

/// The row's grid in the group of the column in hand.
template <int kLevels>
struct CurrentGrid {
  RowGrid<kLevels> grid;
  int first_param = -1;
};

/// Turns of the stripe's columns from kColumn on; returns the change of J.
template <int kLevels, int kColumn = 0>
__device__ float visit_columns(const DescentPart& part, const float* params, float max_code,
                               const float* tile, const Column* columns, int first,
                               CurrentGrid<kLevels>& current, float* changes, int stride,
                               Stripe& x) {
  if constexpr (kColumn < kStripe) {
    if (first + kColumn >= part.n_columns) return 0.0f;
    const Column column = columns[first + kColumn];
    if (column.first_param != current.first_param) {
      current.grid.load(params + column.first_param, max_code);
      current.first_param = column.first_param;
    }
    const float gradient = x.gradient[kColumn], old = x.weight[kColumn];
    const float minimum = old - gradient * column.inverse;
    float level;
    int code;
    current.grid.nearest(column.scale, minimum, level, code);
    // Rounding must not trade a level for an equally good one: J would wander without falling.
    const bool nearer = fabsf(minimum - level) < fabsf(minimum - old);
    const float change = nearer ? level - old : 0.0f;
    if (nearer) {
      x.weight[kColumn] = level;
      const int shift = kColumn % 4 * 8;
      x.codes[kColumn / 4] =
          (x.codes[kColumn / 4] & ~(0xffu << shift)) | static_cast<unsigned>(code) << shift;
    }
    changes[kColumn * stride] = change;
    add_row<kColumn + 1>(tile + (first + kColumn) * kBlockColumns + first, change, x.gradient);
    const float rest = visit_columns<kLevels, kColumn + 1>(part, params, max_code, tile, columns,
                                                           first, current, changes, stride, x);
    return change * (2.0f * gradient + change * column.curvature) + rest;
  }
  return 0.0f;
}

template <int kLevels>
__global__ void __launch_bounds__(kThreads)
    descend_part_kernel(const DescentPart part, float max_code, int n_rows, bool aligned) {
  extern __shared__ float4 shared[];
  auto* tile = reinterpret_cast<float*>(shared);
  auto* columns = reinterpret_cast<Column*>(tile + kBlockColumns * kBlockColumns);
  auto* roots = reinterpret_cast<float*>(columns + kBlockColumns);
  float* all_changes = roots + kBlockColumns;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t corner = part.begin * part.stride + part.begin;
  for (int j = thread; j < part.n_columns; j += kThreads) {
    const float curvature = part.hessian[corner + j * part.stride + j];
    columns[j] = {part.column_scale[part.begin + j], curvature, 1.0f / curvature,
                  part.first_param[part.begin + j]};
    roots[j] = part.root[part.begin + j];
  }
  load_upper(part.hessian + corner, part.stride, part.n_columns, part.n_columns, tile);
  __syncthreads();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * n_rows + thread;
  if (thread >= n_rows || row >= part.rows) return;
  const int64_t place = row * part.stride + part.begin;
  const float* params = part.params + row * part.params_stride;
  const float row_scale = part.row_scale[row], inverse_scale = 1.0f / row_scale;
  float* changes = all_changes + thread;
  CurrentGrid<kLevels> current;
  double objective_change = 0.0;
  Stripe x = load_stripe(part, place, 0, aligned);
#pragma unroll 1
  for (int first = 0; first < part.n_columns; first += kStripe) {
    Stripe next;
    if (first + kStripe < part.n_columns) next = load_stripe(part, place, first + kStripe, aligned);
#pragma unroll
    for (int j = 0; j < kStripe; ++j) {
      if (first + j < part.n_columns) x.gradient[j] *= roots[first + j] * inverse_scale;
    }
#pragma unroll 4
    for (int k = 0; k < first; ++k)
      add_row<0>(tile + k * kBlockColumns + first, changes[k * n_rows], x.gradient);
    float* own = changes + first * n_rows;
    objective_change += static_cast<double>(visit_columns<kLevels>(
        part, params, max_code, tile, columns, first, current, own, n_rows, x));
    store_stripe(part, row, first, aligned, x, own, n_rows, row_scale, roots + first);
    x = next;
  }
  part.changes[row] += objective_change;
}

template <int kLevels>
cudaError_t launch_descent(const DescentPart& part, float max_code, cudaStream_t stream) {
  if (part.rows == 0) return cudaSuccess;
  int device = 0, most_bytes = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) {
    status = cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  const auto bytes_of = [](int n_rows) {
    return static_cast<int>(kSharedBytes + kRowBytes * static_cast<size_t>(n_rows));
  };
  int n_rows = kWarp;
  while (n_rows < kThreads && part.rows > n_rows * kManyBlocks &&
         bytes_of(2 * n_rows) <= most_bytes)
    n_rows *= 2;
  const int bytes = bytes_of(n_rows);
  const auto kernel = descend_part_kernel<kLevels>;
  if (status == cudaSuccess) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  if (status != cudaSuccess) return status;
  const auto lies_on = [](const void* address, size_t multiple) {
    return reinterpret_cast<uintptr_t>(address) % multiple == 0;
  };
  const bool aligned = part.stride % 16 == 0 && part.begin % 16 == 0 &&
                       part.change_stride % 8 == 0 && lies_on(part.codes, 16) &&
                       lies_on(part.gradient, 16) && lies_on(part.weight, 16) &&
                       lies_on(part.change, 16);
  const int64_t n_blocks = (part.rows + n_rows - 1) / n_rows;
  kernel<<<static_cast<unsigned>(n_blocks), kThreads, static_cast<size_t>(bytes), stream>>>(
      part, max_code, n_rows, aligned);
  return cudaGetLastError();
}

}  // namespace

cudaError_t descend_part(const DescentPart& part, const GridLevels& levels, cudaStream_t stream) {
  switch (levels.n_levels) {
    case 0:
      return launch_descent<0>(part, levels.max_code, stream);
    case 2:
      return launch_descent<2>(part, levels.max_code, stream);
    case 4:
      return launch_descent<4>(part, levels.max_code, stream);
    case 8:
      return launch_descent<8>(part, levels.max_code, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace d2q::cuda
