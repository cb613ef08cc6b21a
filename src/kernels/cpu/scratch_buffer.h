// Memory for intermediate results that outlives a call, because fresh pages cost more than small
// operations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/matrix.h"

namespace d2q {

/// Memory that grows to the largest request and stays. Not thread-safe.
class ScratchBuffer {
 public:
  /// Room for `count` values, uninitialised; earlier contents are lost.
  template <typename T>
  T* reserve(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (bytes > memory_.size()) memory_ = Matrix<std::byte>(1, bytes);
    return reinterpret_cast<T*>(memory_.data());
  }

 private:
  Matrix<std::byte> memory_;
};

}  // namespace d2q
