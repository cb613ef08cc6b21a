#include "kernels/host_copy.h"

namespace d2q {

Tensor to_device(Device& device, std::span<const float> values, int64_t rows, int64_t cols,
                 DType dtype) {
  D2Q_CHECK(static_cast<int64_t>(values.size()) == rows * cols, "{} values for {}x{}",
            values.size(), rows, cols);
  const Tensor wide = device.allocate(rows, cols, DType::kF32);
  device.upload(values.data(), wide);
  return in_dtype(device, wide, dtype);
}

Tensor to_device(Device& device, const Matrix<float>& matrix, DType dtype) {
  return to_device(device, matrix.span(), matrix.rows(), matrix.cols(), dtype);
}

Tensor in_dtype(Device& device, const Tensor& tensor, DType dtype) {
  if (tensor.empty() || tensor.dtype() == dtype) return tensor;
  const Tensor result = device.allocate(tensor.rows(), tensor.cols(), dtype);
  device.convert(tensor, result);
  return result;
}

}  // namespace d2q
