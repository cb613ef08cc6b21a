// One thread an element throughout: all of it is bound by memory.
#include <cmath>

#include "kernels/cuda/cuda_launch.h"
#include "kernels/cuda/split_kernels.h"

namespace d2q::cuda {
namespace {

struct Parts {
  __nv_bfloat16 high;
  __nv_bfloat16 low;
};

/// What is not finite stays whole.
__device__ Parts split(float x) {
  const __nv_bfloat16 high = __float2bfloat16_rn(x);
  const float rest = x - __bfloat162float(high);
  return {high, __float2bfloat16_rn(isfinite(rest) ? rest : 0.0f)};
}

/// body(row, column) for all elements of a matrix; rows are the grid's second dimension, so that no
/// index is divided.
template <typename Body>
__device__ void for_elements(int64_t rows, int64_t cols, const Body& body) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) body(row, column);
}

/// The copies are `step` elements apart.
__device__ void store_copies(float x, SplitSide side, int64_t step, __nv_bfloat16* place) {
  const Parts parts = split(x);
  const bool left = side == SplitSide::kLeft;
  place[0] = left ? parts.low : parts.high;
  place[step] = left ? parts.high : parts.low;
  place[2 * step] = parts.high;
}

__global__ void stack_rows(const float* x, int64_t rows, int64_t cols, int64_t stride,
                           SplitSide side, __nv_bfloat16* stacked) {
  for_elements(rows, cols, [&](int64_t row, int64_t column) {
    store_copies(x[row * stride + column], side, rows * cols, stacked + row * cols + column);
  });
}

__global__ void stack_columns(const float* x, int64_t rows, int64_t cols, int64_t stride,
                              SplitSide side, __nv_bfloat16* stacked) {
  for_elements(rows, cols, [&](int64_t row, int64_t column) {
    store_copies(x[row * stride + column], side, cols, stacked + row * 3 * cols + column);
  });
}

__global__ void split_rows(const float* x, int64_t rows, int64_t cols, __nv_bfloat16* pieces) {
  for_elements(rows, cols, [&](int64_t row, int64_t column) {
    const Parts parts = split(x[row * cols + column]);
    pieces[2 * row * cols + column] = parts.high;
    pieces[(2 * row + 1) * cols + column] = parts.low;
  });
}

__global__ void rounded_pairs(const float* a, const float* b, int64_t n, __nv_bfloat162* pairs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) pairs[i] = __float2bfloat162_rn(b == nullptr ? a[i] : a[i] - b[i]);
}

template <typename Kernel, typename... Args>
cudaError_t run_on_elements(Kernel kernel, cudaStream_t stream, const float* x, int64_t rows,
                            int64_t cols, const Args&... args) {
  if (rows == 0 || cols == 0) return cudaSuccess;
  constexpr int64_t kMostRows = 65535;  // of a grid
  const auto grid_rows = static_cast<unsigned>(rows < kMostRows ? rows : kMostRows);
  kernel<<<dim3(blocks_for(cols), grid_rows), kThreads, 0, stream>>>(x, rows, cols, args...);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_stack_rows(const float* x, int64_t rows, int64_t cols, int64_t stride,
                              SplitSide side, __nv_bfloat16* stacked, cudaStream_t stream) {
  return run_on_elements(stack_rows, stream, x, rows, cols, stride, side, stacked);
}

cudaError_t launch_stack_columns(const float* x, int64_t rows, int64_t cols, int64_t stride,
                                 SplitSide side, __nv_bfloat16* stacked, cudaStream_t stream) {
  return run_on_elements(stack_columns, stream, x, rows, cols, stride, side, stacked);
}

cudaError_t launch_split_rows(const float* x, int64_t rows, int64_t cols, __nv_bfloat16* pieces,
                              cudaStream_t stream) {
  return run_on_elements(split_rows, stream, x, rows, cols, pieces);
}

cudaError_t launch_rounded_pairs(const float* a, const float* b, int64_t n, __nv_bfloat162* pairs,
                                 cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  rounded_pairs<<<blocks_for(n), kThreads, 0, stream>>>(a, b, n, pairs);
  return cudaGetLastError();
}

}  // namespace d2q::cuda
