#include "kernels/cuda/cuda_nccl.h"

#include "base/error.h"

#ifdef D2Q_HAS_NCCL

#include <dlfcn.h>
#include <nccl.h>

#include <numeric>
#include <vector>

namespace d2q {

struct Nccl::Impl {
  void* library = nullptr;
  decltype(&ncclCommInitAll) init_all = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclBroadcast) broadcast = nullptr;
  decltype(&ncclGetErrorString) describe = nullptr;
  std::vector<ncclComm_t> ranks;

  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr)
      fail(ErrorCode::kUnsupported, "several GPUs: libnccl.so.2 has no {}; it is too old", name);
  }
  void check(ncclResult_t status, const char* what) const {
    if (status != ncclSuccess) fail(ErrorCode::kIo, "NCCL: {} failed: {}", what, describe(status));
  }
};

Nccl::Nccl(int n) : impl_(std::make_unique<Impl>()) {
  impl_->library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (impl_->library == nullptr) {
    fail(ErrorCode::kUnsupported,
         "several GPUs: NCCL is missing (libnccl.so.2: {}); install it or use --gpus 1", dlerror());
  }
  impl_->find(impl_->init_all, "ncclCommInitAll");
  impl_->find(impl_->destroy, "ncclCommDestroy");
  impl_->find(impl_->all_reduce, "ncclAllReduce");
  impl_->find(impl_->broadcast, "ncclBroadcast");
  impl_->find(impl_->describe, "ncclGetErrorString");
  std::vector<int> devices(static_cast<size_t>(n));
  std::iota(devices.begin(), devices.end(), 0);
  std::vector<ncclComm_t> ranks(devices.size());
  impl_->check(impl_->init_all(ranks.data(), n, devices.data()), "starting");
  impl_->ranks = std::move(ranks);
}

Nccl::~Nccl() {
  for (ncclComm_t rank : impl_->ranks) impl_->destroy(rank);
}

void Nccl::sum(int rank, void* data, int64_t count, DType dtype, cudaStream_t stream) {
  D2Q_CHECK(dtype == DType::kF32 || dtype == DType::kF64, "a sum in dtype {}",
            static_cast<int>(dtype));
  impl_->check(impl_->all_reduce(data, data, static_cast<size_t>(count),
                                 dtype == DType::kF32 ? ncclFloat32 : ncclFloat64, ncclSum,
                                 impl_->ranks[static_cast<size_t>(rank)], stream),
               "a sum");
}

void Nccl::broadcast(int rank, int from, void* data, int64_t n_bytes, cudaStream_t stream) {
  impl_->check(impl_->broadcast(data, data, static_cast<size_t>(n_bytes), ncclUint8, from,
                                impl_->ranks[static_cast<size_t>(rank)], stream),
               "sharing memory");
}

}  // namespace d2q

#else

namespace d2q {

struct Nccl::Impl {};

Nccl::Nccl(int) {
  fail(ErrorCode::kUnsupported,
       "several GPUs: this d2quant was built without NCCL's header (nccl.h); use --gpus 1");
}
Nccl::~Nccl() = default;
void Nccl::sum(int, void*, int64_t, DType, cudaStream_t) {}
void Nccl::broadcast(int, int, void*, int64_t, cudaStream_t) {}

}  // namespace d2q

#endif
