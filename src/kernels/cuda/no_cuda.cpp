// Linked when the build has no CUDA.
#include "kernels/device_group.h"

namespace d2q {

std::unique_ptr<Device> make_cuda_device() {
  fail(ErrorCode::kUnsupported,
       "device 'cuda': this d2quant was built without CUDA; use --device cpu or build with "
       "-DD2Q_CUDA=ON");
}

std::unique_ptr<DeviceGroup> make_cuda_group(int) {
  make_cuda_device();  // says why there is none
  return nullptr;
}

}  // namespace d2q
