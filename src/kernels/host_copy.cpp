#include "kernels/host_copy.h"

namespace d2q {

Tensor to_device(Device& device, std::span<const float> values, int64_t rows, int64_t cols,
                 DType dtype) {
  D2Q_CHECK(static_cast<int64_t>(values.size()) == rows * cols, "{} values for {}x{}",
            values.size(), rows, cols);
  const Tensor wide = device.allocate(rows, cols, DType::kF32);
  device.upload(values.data(), wide);
  if (dtype == DType::kF32) return wide;
  const Tensor result = device.allocate(rows, cols, dtype);
  device.convert(wide, result);
  return result;
}

Tensor to_device(Device& device, const Matrix<float>& matrix, DType dtype) {
  return to_device(device, matrix.span(), matrix.rows(), matrix.cols(), dtype);
}

Tensor to_device(Device& device, const Matrix<double>& matrix) {
  Matrix<float> rounded(matrix.rows(), matrix.cols());
  for (int64_t i = 0; i < matrix.size(); ++i)
    rounded.data()[i] = static_cast<float>(matrix.data()[i]);
  return to_device(device, rounded);
}

}  // namespace d2q
