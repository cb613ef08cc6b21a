// The two ends of a decoding step: embedding the tokens that lie in device memory, and choosing the
// next ones.
#include <cmath>

#include "kernels/cuda/cuda_decode_kernels.h"
#include "kernels/cuda/cuda_values.cuh"
#include "kernels/cuda/kernel_overlap.cuh"

namespace d2q::cuda {
namespace {

__global__ __launch_bounds__(kThreads) void decode_embed(const int32_t* tokens, Values table,
                                                         int64_t n_rows, int64_t width, float* y) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const int64_t column = element_index();
  if (column >= width) return;
  const int64_t b = blockIdx.y, token = tokens[b];
  y[b * width + column] =
      token >= 0 && token < n_rows ? load_value(table, token * width + column) : NAN;
}

constexpr int kChoosingThreads = 1024;

struct Choice {
  float value;
  int index;
};
__device__ inline Choice better(const Choice& a, const Choice& b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

/// A block of threads a row.
__global__ __launch_bounds__(kChoosingThreads) void most_likely(const float* logits,
                                                                int64_t vocabulary,
                                                                int32_t* tokens) {
  __shared__ Choice of_warp[kChoosingThreads / 32];
  let_next_kernel_start();
  wait_for_kernels_before();
  const float* row = logits + blockIdx.x * vocabulary;
  Choice best = {-INFINITY, 0};
  const int n = static_cast<int>(vocabulary), thread = static_cast<int>(threadIdx.x);
#pragma unroll 8
  for (int i = thread; i < n; i += kChoosingThreads) best = better(best, {__ldcg(row + i), i});
  const auto reduce_warp = [&] {
    for (int offset = 16; offset > 0; offset /= 2) {
      best = better(best, {__shfl_xor_sync(0xffffffffu, best.value, offset),
                           __shfl_xor_sync(0xffffffffu, best.index, offset)});
    }
  };
  reduce_warp();
  if (thread % 32 == 0) of_warp[thread / 32] = best;
  __syncthreads();
  if (thread >= 32) return;
  best = of_warp[thread];
  reduce_warp();
  if (thread == 0) tokens[blockIdx.x] = best.index;
}

__global__ void advance(int32_t* positions, int n) {
  let_next_kernel_start();
  wait_for_kernels_before();
  const int64_t i = element_index();
  if (i < n) ++positions[i];
}

}  // namespace

cudaError_t launch_decode_embed(const int32_t* tokens, int n_tokens, const Values& table,
                                int64_t n_rows, int64_t width, float* y, const Launch& launch) {
  if (n_tokens == 0 || width == 0) return cudaSuccess;
  return launch_overlapped(decode_embed, launch,
                           dim3(blocks_for(width), static_cast<unsigned>(n_tokens)), kThreads, 0,
                           tokens, table, n_rows, width, y);
}

cudaError_t launch_most_likely(const float* logits, int n_tokens, int64_t vocabulary,
                               int32_t* tokens, const Launch& launch) {
  if (n_tokens == 0) return cudaSuccess;
  return launch_overlapped(most_likely, launch, dim3(static_cast<unsigned>(n_tokens)),
                           kChoosingThreads, 0, logits, vocabulary, tokens);
}

cudaError_t launch_advance(int32_t* positions, int n_tokens, const Launch& launch) {
  if (n_tokens == 0) return cudaSuccess;
  return launch_overlapped(advance, launch, dim3(blocks_for(n_tokens)), kThreads, 0, positions,
                           n_tokens);
}

}  // namespace d2q::cuda
