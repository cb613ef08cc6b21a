#include "quant/absorb.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"

namespace d2q {
namespace {

void finish(LinearSolution& down, std::span<float> up_bias) {
  D2Q_CHECK(up_bias.empty() || up_bias.size() == down.column_scale.size(),
            "bias of {} for {} columns", up_bias.size(), down.column_scale.size());
  for (size_t j = 0; j < up_bias.size(); ++j) up_bias[j] *= down.column_scale[j];
  down.weight = {};
  std::fill(down.column_scale.begin(), down.column_scale.end(), 1.0f);
  down.has_column_scale = false;
}

}  // namespace

void absorb_column_scale(LinearSolution& down, LinearSolution& up, std::span<float> up_bias) {
  const int64_t rows = up.layout.rows;
  D2Q_CHECK(rows == static_cast<int64_t>(down.column_scale.size()), "{} rows for {} columns", rows,
            down.column_scale.size());
  const int64_t n_groups = up.layout.n_groups();
  const int n_params = up.layout.n_params();
  up.weight = {};
  // A uniform grid's zero is a code, not a weight: only its scale is multiplied.
  const int n_scaled = up.layout.kind == PackedKind::kUniform ? 1 : n_params;
  for (int64_t j = 0; j < rows; ++j) {
    const float c = down.column_scale[static_cast<size_t>(j)];
    for (int64_t group = 0; group < n_groups; ++group) {
      float* params = up.params.data() + (j * n_groups + group) * n_params;
      for (int k = 0; k < n_scaled; ++k) {
        const float scaled = to_float(to_half(params[k] * c));
        if (!std::isfinite(scaled)) {
          fail(ErrorCode::kNumeric,
               "absorbing the column scale {} of row {} overflows fp16 (scale {})", c, j,
               params[k]);
        }
        params[k] = scaled;
      }
    }
  }
  finish(down, up_bias);
}

void absorb_column_scale(LinearSolution& down, Matrix<float>& up, std::span<float> up_bias) {
  D2Q_CHECK(up.rows() == static_cast<int64_t>(down.column_scale.size()), "{} rows for {} columns",
            up.rows(), down.column_scale.size());
  for (int64_t j = 0; j < up.rows(); ++j) {
    for (int64_t i = 0; i < up.cols(); ++i) up(j, i) *= down.column_scale[static_cast<size_t>(j)];
  }
  finish(down, up_bias);
}

}  // namespace d2q
