// Matrices too large for the GPU, in the host's memory: copies beside the kernels, on a stream of
// their own.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q {

/// Device::load, store and join_transfers. Copies run in the order in which they are asked for:
/// what one stored another loads. The host's side is pinned memory.
class HostRows {
 public:
  /// `work` is the stream of the kernels, on the current device.
  explicit HostRows(cudaStream_t work) : work_(work) {}
  ~HostRows();
  HostRows(const HostRows&) = delete;
  HostRows& operator=(const HostRows&) = delete;

  /// Begins when what `work` holds by now is done.
  cudaError_t copy(const void* source, void* destination, int64_t n_bytes, cudaMemcpyKind kind);
  /// What `work` gets from here on waits for the copies.
  cudaError_t join();
  /// Waits for the copies.
  void finish();

 private:
  cudaError_t prepare();

  cudaStream_t work_;
  cudaStream_t copies_ = nullptr;  // made at the first copy
  cudaEvent_t worked_ = nullptr;
  cudaEvent_t copied_ = nullptr;
  bool pending_ = false;  // copies since the last join
};

}  // namespace d2q
