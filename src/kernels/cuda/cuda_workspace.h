// Memory of the GPU between the kernels of an operation.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/cuda/cuda_context.h"

namespace d2q {

/// Recordings point into it, so what it once gave stays allocated.
class CudaWorkspace {
 public:
  explicit CudaWorkspace(bool zeroed) : zeroed_(zeroed) {}
  void* reserve(CudaContext& context, int64_t n_bytes) {
    if (buffers_.empty() || n_bytes > size_) {
      size_ = std::max(n_bytes, 2 * size_);
      buffers_.push_back(context.allocate_bytes(std::max<int64_t>(size_, 256)));
      if (zeroed_) {
        check_cuda(
            cudaMemsetAsync(buffers_.back().get(), 0, static_cast<size_t>(size_), context.stream()),
            "filling");
      }
    }
    return buffers_.back().get();
  }

 private:
  bool zeroed_;
  int64_t size_ = 0;
  std::vector<std::shared_ptr<void>> buffers_;
};

}  // namespace d2q
