// A 2-D, row-major, contiguous matrix in a device's memory. A handle: copies share the buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/error.h"
#include "base/half.h"

namespace d2q {

enum class DType : uint8_t { kF32, kBF16, kF16, kF64, kU8, kI32 };

constexpr int64_t size_of(DType type) {
  switch (type) {
    case DType::kF64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

template <typename T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::kF64;
}
template <>
constexpr DType dtype_of<BFloat16>() {
  return DType::kBF16;
}
template <>
constexpr DType dtype_of<Half>() {
  return DType::kF16;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::kU8;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::kI32;
}

class Tensor {
 public:
  Tensor() = default;
  /// Takes a share of `buffer`; `data` points into it.
  Tensor(std::shared_ptr<void> buffer, void* data, int64_t rows, int64_t cols, DType dtype)
      : buffer_(std::move(buffer)), data_(data), rows_(rows), cols_(cols), dtype_(dtype) {}

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  int64_t n_bytes() const noexcept { return size() * size_of(dtype_); }
  DType dtype() const noexcept { return dtype_; }
  bool empty() const noexcept { return data_ == nullptr || size() == 0; }

  /// Rows [begin, begin + count) of the same buffer.
  Tensor row_range(int64_t begin, int64_t count) const {
    D2Q_CHECK(begin >= 0 && count >= 0 && begin + count <= rows_, "rows {}+{} of {}", begin, count,
              rows_);
    return {buffer_, static_cast<std::byte*>(data_) + begin * cols_ * size_of(dtype_), count, cols_,
            dtype_};
  }
  /// The same elements as [rows, cols].
  Tensor reshape(int64_t rows, int64_t cols) const {
    D2Q_CHECK(rows * cols == size(), "{}x{} from {}x{}", rows, cols, rows_, cols_);
    return {buffer_, data_, rows, cols, dtype_};
  }

  void* raw() const noexcept { return data_; }
  /// The elements; T must be the dtype. Host code may follow it only on the CPU device.
  template <typename T>
  T* data() const {
    D2Q_CHECK(dtype_of<T>() == dtype_, "tensor holds dtype {}", static_cast<int>(dtype_));
    return static_cast<T*>(data_);
  }

 private:
  std::shared_ptr<void> buffer_;
  void* data_ = nullptr;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  DType dtype_ = DType::kF32;
};

}  // namespace d2q
