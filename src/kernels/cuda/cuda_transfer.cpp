#include "kernels/cuda/cuda_transfer.h"

#include <algorithm>
#include <cstring>
#include <thread>

namespace d2q {

StagedTransfer::~StagedTransfer() {
  for (Lane& lane : lanes_) {
    for (cudaEvent_t event : lane.moved) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    for (std::byte* memory : lane.pinned) {
      if (memory != nullptr) cudaFreeHost(memory);
    }
  }
}

cudaError_t StagedTransfer::prepare() {
  cudaError_t status = cudaGetDevice(&device_);
  for (Lane& lane : lanes_) {
    for (size_t slot = 0; slot < kSlots && status == cudaSuccess; ++slot) {
      if (lane.moved[slot] != nullptr) continue;
      if (lane.pinned[slot] == nullptr) {
        void* memory = nullptr;
        status = cudaMallocHost(&memory, static_cast<size_t>(kPieceBytes));
        if (status != cudaSuccess) return status;
        lane.pinned[slot] = static_cast<std::byte*>(memory);
      }
      status = cudaEventCreateWithFlags(&lane.moved[slot], cudaEventDisableTiming);
    }
  }
  return status;
}

cudaError_t StagedTransfer::run(int64_t n_bytes,
                                const std::function<cudaError_t(Lane&, int64_t first)>& body) {
  cudaError_t status = prepare();
  if (status != cudaSuccess) return status;
  const int64_t n_pieces = (n_bytes + kPieceBytes - 1) / kPieceBytes;
  const auto n_lanes = static_cast<size_t>(std::min<int64_t>(kLanes, n_pieces));
  std::array<cudaError_t, kLanes> results{};
  std::array<std::thread, kLanes> threads;
  for (size_t i = 0; i < n_lanes; ++i) {
    threads[i] = std::thread([&, i] {
      results[i] = cudaSetDevice(device_);
      if (results[i] == cudaSuccess) results[i] = body(lanes_[i], static_cast<int64_t>(i));
    });
  }
  for (size_t i = 0; i < n_lanes; ++i) {
    threads[i].join();
    if (status == cudaSuccess) status = results[i];
  }
  return status;
}

cudaError_t StagedTransfer::to_device(const void* host, void* device, int64_t n_bytes) {
  return run(n_bytes, [&](Lane& lane, int64_t first) {
    size_t turn = 0;
    for (int64_t begin = first * kPieceBytes; begin < n_bytes;
         begin += kLanes * kPieceBytes, ++turn) {
      const size_t slot = turn % kSlots;
      const auto count = static_cast<size_t>(std::min(kPieceBytes, n_bytes - begin));
      // A copy of an earlier call may still be reading the slot.
      cudaError_t status = cudaEventSynchronize(lane.moved[slot]);
      if (status != cudaSuccess) return status;
      std::memcpy(lane.pinned[slot], static_cast<const std::byte*>(host) + begin, count);
      status = cudaMemcpyAsync(static_cast<std::byte*>(device) + begin, lane.pinned[slot], count,
                               cudaMemcpyHostToDevice, stream_);
      if (status == cudaSuccess) status = cudaEventRecord(lane.moved[slot], stream_);
      if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
  });
}

cudaError_t StagedTransfer::to_host(const void* device, void* host, int64_t n_bytes) {
  return run(n_bytes, [&](Lane& lane, int64_t first) {
    const int64_t stride = kLanes * kPieceBytes;
    const auto bytes_at = [&](int64_t begin) {
      return static_cast<size_t>(std::min(kPieceBytes, n_bytes - begin));
    };
    const auto fetch = [&](int64_t begin, size_t slot) {
      // A copy of an earlier call may still be reading the slot.
      cudaError_t status = cudaEventSynchronize(lane.moved[slot]);
      if (status != cudaSuccess) return status;
      status = cudaMemcpyAsync(lane.pinned[slot], static_cast<const std::byte*>(device) + begin,
                               bytes_at(begin), cudaMemcpyDeviceToHost, stream_);
      return status == cudaSuccess ? cudaEventRecord(lane.moved[slot], stream_) : status;
    };
    size_t turn = 0;
    cudaError_t status = fetch(first * kPieceBytes, 0);
    for (int64_t begin = first * kPieceBytes; begin < n_bytes && status == cudaSuccess;
         begin += stride, ++turn) {
      const size_t slot = turn % kSlots;
      if (begin + stride < n_bytes) status = fetch(begin + stride, (turn + 1) % kSlots);
      if (status == cudaSuccess) status = cudaEventSynchronize(lane.moved[slot]);
      if (status != cudaSuccess) break;
      std::memcpy(static_cast<std::byte*>(host) + begin, lane.pinned[slot], bytes_at(begin));
    }
    return status;
  });
}

}  // namespace d2q
