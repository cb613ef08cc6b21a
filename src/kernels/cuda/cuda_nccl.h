// NVIDIA's collectives between the GPUs of one process. The library is opened when it is first
// needed: one GPU does without it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "kernels/tensor.h"

namespace d2q {

class Nccl {
 public:
  /// Joins GPUs 0 to n - 1. Throws Error{kUnsupported} saying what is missing, or Error{kIo}.
  explicit Nccl(int n);
  ~Nccl();
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  /// Called for every rank, by its thread, in the order of its stream; in place.
  void sum(int rank, void* data, int64_t count, DType dtype, cudaStream_t stream);
  void broadcast(int rank, int from, void* data, int64_t n_bytes, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace d2q
