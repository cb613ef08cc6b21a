// Launchers that write f32 matrices as sums of bf16 values, for products on tensor cores. Every
// pointer is device memory, matrices are row-major; a launcher returns the status of its launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Three copies whose product, left times right, has the terms low·high, high·low and high·high.
enum class SplitSide {
  kLeft,   // low, high, high
  kRight,  // high, low, high
};
/// x [rows, cols], `stride` apart, as [3·rows, cols]: the copies one below the other.
cudaError_t launch_stack_rows(const float* x, int64_t rows, int64_t cols, int64_t stride,
                              SplitSide side, __nv_bfloat16* stacked, cudaStream_t stream);
/// The same as [rows, 3·cols]: the copies side by side.
cudaError_t launch_stack_columns(const float* x, int64_t rows, int64_t cols, int64_t stride,
                                 SplitSide side, __nv_bfloat16* stacked, cudaStream_t stream);

/// x [rows, cols] as [2·rows, cols]: row i's high part is row 2i, its low part row 2i + 1.
cudaError_t launch_split_rows(const float* x, int64_t rows, int64_t cols, __nv_bfloat16* pieces,
                              cudaStream_t stream);
/// pairs[2i] = pairs[2i + 1] = a[i] − b[i] rounded to bf16; b may be null: 0.
cudaError_t launch_rounded_pairs(const float* a, const float* b, int64_t n, __nv_bfloat162* pairs,
                                 cudaStream_t stream);

}  // namespace d2q::cuda
