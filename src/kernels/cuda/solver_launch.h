// For the solver's .cu files: how a kernel is started, and how many threads share a row.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

constexpr int kSolverThreads = 256;
/// Threads that share a row. More would only repeat the rounding of columns that wait their turn,
/// fewer would leave most of the GPU idle below some thousand rows.
constexpr int kRowLanes = 16;

template <typename Kernel, typename... Args>
cudaError_t launch(Kernel kernel, int64_t n_blocks, int n_threads, cudaStream_t stream,
                   const Args&... args) {
  if (n_blocks == 0) return cudaSuccess;
  kernel<<<static_cast<unsigned>(n_blocks), n_threads, 0, stream>>>(args...);
  return cudaGetLastError();
}

/// Blocks of kSolverThreads for `lanes` threads a row.
inline int64_t row_blocks(int64_t rows, int lanes = kRowLanes) {
  return (rows * lanes + kSolverThreads - 1) / kSolverThreads;
}

}  // namespace d2q::cuda
