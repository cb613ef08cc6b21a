#include "kernels/cuda/cuda_host_rows.h"

namespace d2q {

HostRows::~HostRows() {
  finish();
  if (copied_ != nullptr) cudaEventDestroy(copied_);
  if (worked_ != nullptr) cudaEventDestroy(worked_);
  if (copies_ != nullptr) cudaStreamDestroy(copies_);
}

cudaError_t HostRows::prepare() {
  cudaError_t status = cudaSuccess;
  for (cudaEvent_t* event : {&worked_, &copied_}) {
    if (*event == nullptr && status == cudaSuccess)
      status = cudaEventCreateWithFlags(event, cudaEventDisableTiming);
  }
  if (copies_ == nullptr && status == cudaSuccess)
    status = cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking);
  return status;
}

cudaError_t HostRows::copy(const void* source, void* destination, int64_t n_bytes,
                           cudaMemcpyKind kind) {
  if (n_bytes == 0) return cudaSuccess;
  cudaError_t status = prepare();
  if (status == cudaSuccess) status = cudaEventRecord(worked_, work_);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(copies_, worked_, 0);
  if (status != cudaSuccess) return status;
  pending_ = true;
  return cudaMemcpyAsync(destination, source, static_cast<size_t>(n_bytes), kind, copies_);
}

cudaError_t HostRows::join() {
  if (!pending_) return cudaSuccess;
  cudaError_t status = cudaEventRecord(copied_, copies_);
  if (status == cudaSuccess) status = cudaStreamWaitEvent(work_, copied_, 0);
  pending_ = status != cudaSuccess;
  return status;
}

void HostRows::finish() {
  if (copies_ != nullptr) cudaStreamSynchronize(copies_);
}

}  // namespace d2q
