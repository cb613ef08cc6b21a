// Whole matrices between the host and a device.
#pragma once

#include <span>

#include "base/matrix.h"
#include "kernels/device.h"

namespace d2q {

/// `values`, [rows, cols] row-major, on the device in `dtype` (kF32, kBF16 or kF16), which the
/// device converts to.
Tensor to_device(Device& device, std::span<const float> values, int64_t rows, int64_t cols,
                 DType dtype = DType::kF32);
Tensor to_device(Device& device, const Matrix<float>& matrix, DType dtype = DType::kF32);

/// `tensor` itself, or a copy converted to `dtype`.
Tensor in_dtype(Device& device, const Tensor& tensor, DType dtype);

/// The elements of `tensor`; T must be its dtype.
template <typename T>
Matrix<T> to_host(Device& device, const Tensor& tensor) {
  D2Q_CHECK(dtype_of<T>() == tensor.dtype(), "tensor holds dtype {}",
            static_cast<int>(tensor.dtype()));
  Matrix<T> matrix(tensor.rows(), tensor.cols());
  device.download(tensor, matrix.data());
  return matrix;
}

}  // namespace d2q
