#include "kernels/cuda/solver_launch.h"
#include "kernels/cuda/solver_math.cuh"
#include "kernels/cuda/solver_refit_kernels.h"

namespace d2q::cuda {
namespace {

constexpr int kMaxParams = 3;

/// What a row's ŵ is linear in, at one column: ±c for a sign plane; code and 1 for a uniform grid,
/// whose second unknown is −scale·zero.
__device__ float basis(bool uniform, int k, int code, float c) {
  if (!uniform) return (code >> k & 1) != 0 ? c : -c;
  return k == 0 ? static_cast<float>(code) : 1.0f;
}

__device__ double* system_of(const RefitBatch& batch, int64_t row) {
  const int64_t n = batch.unknowns();
  return batch.systems + row * n * (n + 1);
}

/// One warp a row and group.
__global__ void __launch_bounds__(kSolverThreads) prepare_refit_kernel(const RefitBatch batch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t task = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (task >= batch.rows * batch.n_groups) return;  // a whole warp
  const int64_t row = task / batch.n_groups;
  const auto g = static_cast<int>(task % batch.n_groups);
  const GroupSpan group = batch.groups[g];
  const int64_t place = row * batch.stride + group.begin;
  float sums[kMaxParams] = {};
  for (int j = lane; j < group.size; j += kWarp) {
    const int code = batch.codes[place + j];
    const float c = batch.column_scale[group.begin + j];
    const float target = batch.target_product[place + j];
#pragma unroll
    for (int k = 0; k < kMaxParams; ++k) {
      if (k >= batch.n_params) break;
      const float value = basis(batch.uniform, k, code, c);
      batch.bases[k * batch.rows * batch.stride + place + j] = value;
      sums[k] += value * target;
    }
  }
  const int64_t n = batch.unknowns();
  double* system = system_of(batch, row);
  double* old = batch.vectors + row * kRefitVectors * n;
  const float* params = batch.params + row * batch.params_stride + group.first_param;
#pragma unroll
  for (int k = 0; k < kMaxParams; ++k) {
    if (k >= batch.n_params) break;
    const float sum = lane_sum<kWarp>(sums[k]);
    if (lane != 0) continue;
    const int64_t unknown = static_cast<int64_t>(g) * batch.n_params + k;
    system[unknown * (n + 1) + n] = static_cast<double>(sum);
    const bool offset = batch.uniform && k == 1;
    old[unknown] = offset ? -static_cast<double>(params[0]) * static_cast<double>(params[1])
                          : static_cast<double>(params[k]);
  }
}

/// One warp a row and group a <= b: the K x K block (a, b), and its mirror image.
template <int kParams>
__global__ void __launch_bounds__(kSolverThreads)
    normal_columns_kernel(const RefitBatch batch, int b) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t task = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (task >= batch.rows * (b + 1)) return;  // a whole warp
  const int64_t row = task / (b + 1);
  const auto a = static_cast<int>(task % (b + 1));
  const GroupSpan group = batch.groups[a];
  const int64_t place = row * batch.stride + group.begin;
  float sums[kParams][kParams] = {};
  for (int j = lane; j < group.size; j += kWarp) {
    const int code = batch.codes[place + j];
    const float c = batch.column_scale[group.begin + j];
    float values[kParams];
#pragma unroll
    for (int k = 0; k < kParams; ++k) values[k] = basis(batch.uniform, k, code, c);
#pragma unroll
    for (int l = 0; l < kParams; ++l) {
      const float product = batch.product[l * batch.rows * batch.stride + place + j];
#pragma unroll
      for (int k = 0; k < kParams; ++k) sums[k][l] += values[k] * product;
    }
  }
  const int64_t n = batch.unknowns();
  double* system = system_of(batch, row);
#pragma unroll
  for (int k = 0; k < kParams; ++k) {
#pragma unroll
    for (int l = 0; l < kParams; ++l) {
      const float sum = lane_sum<kWarp>(sums[k][l]);
      // The block on the diagonal is symmetric but for rounding: its upper half stands for both.
      if (lane != 0 || (a == b && k > l)) continue;
      const int64_t i = static_cast<int64_t>(a) * kParams + k;
      const int64_t j = static_cast<int64_t>(b) * kParams + l;
      system[i * (n + 1) + j] = static_cast<double>(sum);
      system[j * (n + 1) + i] = static_cast<double>(sum);
    }
  }
}

}  // namespace

cudaError_t prepare_refit(const RefitBatch& batch, cudaStream_t stream) {
  return launch(prepare_refit_kernel, row_blocks(batch.rows * batch.n_groups, kWarp),
                kSolverThreads, stream, batch);
}

cudaError_t add_normal_columns(const RefitBatch& batch, int group, cudaStream_t stream) {
  const int64_t n_blocks = row_blocks(batch.rows * (group + 1), kWarp);
  switch (batch.n_params) {
    case 1:
      return launch(normal_columns_kernel<1>, n_blocks, kSolverThreads, stream, batch, group);
    case 2:
      return launch(normal_columns_kernel<2>, n_blocks, kSolverThreads, stream, batch, group);
    case 3:
      return launch(normal_columns_kernel<3>, n_blocks, kSolverThreads, stream, batch, group);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace d2q::cuda
