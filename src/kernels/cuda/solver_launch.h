// For the solver's .cu files: how a kernel is started, and how many lanes share a row.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

constexpr int kSolverThreads = 256;
/// From this many rows on, 8 lanes a row keep the GPU busy and waste less work on the columns that
/// wait their turn; below it, 32 lanes a row finish a column sooner.
constexpr int64_t kManyRows = 4096;

template <typename Kernel, typename... Args>
cudaError_t launch(Kernel kernel, int64_t n_blocks, int n_threads, cudaStream_t stream,
                   const Args&... args) {
  if (n_blocks == 0) return cudaSuccess;
  kernel<<<static_cast<unsigned>(n_blocks), n_threads, 0, stream>>>(args...);
  return cudaGetLastError();
}

/// Blocks of kSolverThreads for `lanes` threads a row.
inline int64_t row_blocks(int64_t rows, int lanes) {
  return (rows * lanes + kSolverThreads - 1) / kSolverThreads;
}

}  // namespace d2q::cuda
