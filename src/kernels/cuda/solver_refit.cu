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
      sums[k] += basis(batch.uniform, k, code, c) * target;
    }
  }
  const int64_t n = batch.unknowns();
  const int64_t stride = batch.system_stride();
  float* system = batch.systems + row * n * stride;
  double* old = batch.vectors + row * kRefitVectors * n;
  const float* params = batch.params + row * batch.params_stride + group.first_param;
#pragma unroll
  for (int k = 0; k < kMaxParams; ++k) {
    if (k >= batch.n_params) break;
    const float sum = lane_sum<kWarp>(sums[k]);
    if (lane != 0) continue;
    const int64_t unknown = static_cast<int64_t>(g) * batch.n_params + k;
    system[unknown * stride + n] = sum;
    const bool offset = batch.uniform && k == 1;
    old[unknown] = offset ? -static_cast<double>(params[0]) * static_cast<double>(params[1])
                          : static_cast<double>(params[k]);
  }
}

}  // namespace

cudaError_t prepare_refit(const RefitBatch& batch, cudaStream_t stream) {
  return launch(prepare_refit_kernel, row_blocks(batch.rows * batch.n_groups, kWarp),
                kSolverThreads, stream, batch);
}

}  // namespace d2q::cuda
