// Host matrices: 64-byte aligned, row-major, contiguous.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

#include "base/aligned_memory.h"
#include "base/checked.h"

namespace d2q {

/// An owning [rows, cols] matrix of a trivial type. Movable, not copyable (copies are explicit).
template <typename T>
class Matrix {
 public:
  Matrix() = default;
  /// Zero-filled when `zero`, else uninitialised. Throws std::bad_alloc.
  Matrix(int64_t rows, int64_t cols, bool zero = false) : rows_(rows), cols_(cols) {
    const uint64_t bytes =
        checked_mul(checked_mul(static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), "matrix"),
                    sizeof(T), "matrix");
    data_.reset(static_cast<T*>(allocate_aligned(bytes)));
    if (zero) {
      for (int64_t i = 0; i < size(); ++i) data_.get()[i] = T{};
    }
  }

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  bool empty() const noexcept { return size() == 0; }
  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  T* row(int64_t r) noexcept { return data_.get() + r * cols_; }
  const T* row(int64_t r) const noexcept { return data_.get() + r * cols_; }
  T& operator()(int64_t r, int64_t c) noexcept { return data_.get()[r * cols_ + c]; }
  const T& operator()(int64_t r, int64_t c) const noexcept { return data_.get()[r * cols_ + c]; }
  std::span<T> span() noexcept { return {data_.get(), static_cast<size_t>(size())}; }
  std::span<const T> span() const noexcept { return {data_.get(), static_cast<size_t>(size())}; }

  Matrix clone() const {
    Matrix copy(rows_, cols_);
    for (int64_t i = 0; i < size(); ++i) copy.data_.get()[i] = data_.get()[i];
    return copy;
  }

 private:
  struct Free {
    void operator()(T* pointer) const noexcept { std::free(pointer); }
  };
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::unique_ptr<T, Free> data_;
};

}  // namespace d2q
