// Solutions for the tests that look at them on the host. Included by tests only.
#pragma once

#include "kernels/host_copy.h"
#include "quant/solve.h"

namespace d2q::test {

/// Ŵ [out, in] as it will be stored, column scale included.
inline Matrix<float> reconstruct(const LinearSolution& solution) {
  ThreadPool pool(1);
  const PackedLinear packed = pack_solution(solution, pool);
  Matrix<float> weights(solution.layout.rows, solution.layout.cols);
  dequantize(packed.view(), weights.span());
  for (int64_t i = 0; i < weights.rows(); ++i) {
    for (int64_t j = 0; j < weights.cols(); ++j)
      weights(i, j) *= solution.column_scale[static_cast<size_t>(j)];
  }
  return weights;
}

/// The matrix on the device; nothing of an empty one.
inline Tensor on_device(Device& device, const Matrix<float>& matrix) {
  return matrix.empty() ? Tensor{} : to_device(device, matrix);
}

}  // namespace d2q::test
