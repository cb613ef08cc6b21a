// Several GPUs of one host: a thread and a context for each, NCCL between them.
#include <cuda_runtime.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_nccl.h"
#include "kernels/device_group.h"

namespace d2q {
namespace {

class CudaGroup final : public DeviceGroup {
 public:
  CudaGroup(std::vector<std::unique_ptr<Device>> devices,
            std::vector<std::shared_ptr<CudaContext>> contexts)
      : DeviceGroup(pointers(devices)),
        devices_(std::move(devices)),
        contexts_(std::move(contexts)),
        nccl_(size()) {}

 protected:
  void bind(int rank) override { check_cuda(cudaSetDevice(rank), "choosing a device"); }
  void sum(int rank, const Tensor& tensor) override {
    nccl_.sum(rank, tensor.raw(), tensor.size(), tensor.dtype(), stream(rank));
  }
  void broadcast(int rank, int from, const Tensor& tensor) override {
    nccl_.broadcast(rank, from, tensor.raw(), tensor.n_bytes(), stream(rank));
  }

 private:
  cudaStream_t stream(int rank) const { return contexts_[static_cast<size_t>(rank)]->stream(); }

  static std::vector<Device*> pointers(const std::vector<std::unique_ptr<Device>>& devices) {
    std::vector<Device*> result;
    for (const auto& device : devices) result.push_back(device.get());
    return result;
  }

  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::shared_ptr<CudaContext>> contexts_;
  Nccl nccl_;
};

}  // namespace

std::unique_ptr<DeviceGroup> make_cuda_group(int n) {
  int n_devices = 0;
  if (cudaGetDeviceCount(&n_devices) != cudaSuccess) n_devices = 0;
  cudaGetLastError();
  if (n_devices < n) {
    fail(ErrorCode::kUnsupported, "--gpus {}: {} GPU{} visible here", n, n_devices,
         n_devices == 1 ? " is" : "s are");
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      int reaches = 1;
      if (i != j) check_cuda(cudaDeviceCanAccessPeer(&reaches, i, j), "asking for peer access");
      if (reaches == 0) {
        fail(ErrorCode::kUnsupported,
             "--gpus {}: GPU {} cannot reach the memory of GPU {}; use --gpus 1, or GPUs of one "
             "switch (CUDA_VISIBLE_DEVICES)",
             n, i, j);
      }
    }
  }
  int before = 0;
  check_cuda(cudaGetDevice(&before), "choosing a device");
  std::vector<std::shared_ptr<CudaContext>> contexts;
  std::vector<std::unique_ptr<Device>> devices;
  for (int i = 0; i < n; ++i) {
    check_cuda(cudaSetDevice(i), "choosing a device");
    contexts.push_back(CudaContext::create());
    const std::string name = contexts.front()->properties().name;
    if (contexts.back()->properties().name != name) {
      fail(ErrorCode::kUnsupported,
           "--gpus {}: GPU {} is a {} and GPU 0 a {}, whose results differ in their last bits", n,
           i, contexts.back()->properties().name, name);
    }
    for (int peer = 0; peer < n; ++peer) {
      if (peer != i) contexts.back()->open_memory_to(peer);
    }
    devices.push_back(make_cuda_device(contexts.back()));
  }
  check_cuda(cudaSetDevice(before), "choosing a device");
  return std::make_unique<CudaGroup>(std::move(devices), std::move(contexts));
}

}  // namespace d2q
