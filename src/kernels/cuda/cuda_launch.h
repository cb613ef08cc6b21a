// For .cu files: the shape of a launch, and the check after it. Includes nothing of the library.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

constexpr int kThreads = 256;

/// Blocks for one thread an element.
inline unsigned blocks_for(int64_t n, int threads = kThreads) {
  return static_cast<unsigned>((n + threads - 1) / threads);
}

}  // namespace d2q::cuda
