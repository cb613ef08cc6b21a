// Large copies between pageable host memory and the GPU: several threads move pieces through pinned
// memory, where one thread, or the runtime's own staging, would be slower than the bus.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace d2q {

/// From here on staging pays.
inline constexpr int64_t kStagedTransferBytes = int64_t{16} << 20;

class StagedTransfer {
 public:
  /// On `stream` of the current device. Pinned memory is taken at the first use.
  explicit StagedTransfer(cudaStream_t stream) : stream_(stream) {}
  ~StagedTransfer();
  StagedTransfer(const StagedTransfer&) = delete;
  StagedTransfer& operator=(const StagedTransfer&) = delete;

  /// The host memory is free for reuse on return; the GPU has it in the order of the stream.
  cudaError_t to_device(const void* host, void* device, int64_t n_bytes);
  /// What the stream has left there is in host memory on return.
  cudaError_t to_host(const void* device, void* host, int64_t n_bytes);

 private:
  static constexpr int kLanes = 8;
  static constexpr int kSlots = 2;
  static constexpr int64_t kPieceBytes = int64_t{4} << 20;

  /// One thread's buffers: while the bus moves one, the thread fills or empties the other.
  struct Lane {
    std::array<std::byte*, kSlots> pinned{};
    std::array<cudaEvent_t, kSlots> moved{};  // of the slot's last copy on the stream
  };

  cudaError_t prepare();
  /// body(lane, first piece) on a thread for each lane, which takes every kLanes-th piece from
  /// there on; the first failure.
  cudaError_t run(int64_t n_bytes, const std::function<cudaError_t(Lane&, int64_t first)>& body);

  cudaStream_t stream_;
  int device_ = 0;
  std::array<Lane, kLanes> lanes_;
};

}  // namespace d2q
