// For .cu files: the shape of a launch, and the check after it. Includes nothing of the library.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

constexpr int kThreads = 256;

/// Where a decoding kernel is launched, and what it may expect there.
struct Launch {
  cudaStream_t stream = nullptr;
  int n_processors = 1;  // multiprocessors of the GPU
  bool overlap = false;  // with the kernel before it, see kernel_overlap.cuh
};

/// Blocks for one thread an element.
inline unsigned blocks_for(int64_t n, int threads = kThreads) {
  return static_cast<unsigned>((n + threads - 1) / threads);
}

}  // namespace d2q::cuda
