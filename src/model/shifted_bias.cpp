#include "model/shifted_bias.h"

namespace d2q {

Matrix<float> bias_with_shift(const WeightSource& source, const std::string& module,
                              const std::string& norm) {
  const Matrix<float> weight = source.load(module + ".weight");
  const Matrix<float> shift = source.load(norm + ".bias");
  const std::string name = module + ".bias";
  Matrix<float> bias = source.has(name) ? source.load(name) : Matrix<float>(1, weight.rows(), true);
  for (int64_t i = 0; i < weight.rows(); ++i) {
    double sum = 0.0;
    for (int64_t j = 0; j < weight.cols(); ++j)
      sum += static_cast<double>(weight(i, j)) * static_cast<double>(shift(0, j));
    bias(0, i) += static_cast<float>(sum);
  }
  return bias;
}

}  // namespace d2q
