// Programmatic dependent launch (Hopper and later): a kernel starts while the one before it drains,
// reads what never changes (weights), and then waits for the other's results. Older GPUs run
// kernels one after another, and both functions do nothing there.
//
// Every thread of every kernel that is launched this way has to wait before it reads or writes
// anything that other kernels touch: only then has all that came before finished.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_launch.h"

namespace d2q::cuda {

__device__ inline void let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ inline void wait_for_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Launches `kernel` with what is above, or plainly when `launch.overlap` is off.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_overlapped(void (*kernel)(Parameters...), const Launch& launch, dim3 blocks,
                              int threads, size_t shared_bytes, const Arguments&... arguments) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launch.stream;
  config.attrs = &overlap;
  config.numAttrs = launch.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace d2q::cuda
