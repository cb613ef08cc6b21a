#include "kernels/operation_checks.h"

#include "base/error.h"

namespace d2q {

void check_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t tokens = x.rows(), in = w.cols(), out = w.rows();
  D2Q_CHECK(x.cols() == in && y.rows() == tokens && y.cols() == out, "{}x{} times {}x{} into {}x{}",
            tokens, x.cols(), out, in, y.rows(), y.cols());
  D2Q_CHECK(bias.empty() || bias.size() == out, "bias of {} for {} outputs", bias.size(), out);
  const bool f32 = w.dtype() == DType::kF32;
  D2Q_CHECK(f32 ? x.dtype() == DType::kF32 : w.dtype() == DType::kBF16, "x and w dtypes {} {}",
            static_cast<int>(x.dtype()), static_cast<int>(w.dtype()));
}

void check_rope(const Tensor& x, int64_t n_heads, std::span<const int32_t> positions,
                const Tensor& cos, const Tensor& sin) {
  D2Q_CHECK(n_heads > 0 && x.cols() % n_heads == 0, "{} columns in {} heads", x.cols(), n_heads);
  const int64_t head_dim = x.cols() / n_heads, half = cos.cols();
  D2Q_CHECK(2 * half <= head_dim && sin.cols() == half && sin.rows() == cos.rows(),
            "tables {}x{} {}x{} for head size {}", cos.rows(), half, sin.rows(), sin.cols(),
            head_dim);
  D2Q_CHECK(static_cast<int64_t>(positions.size()) == x.rows(), "{} positions for {} rows",
            positions.size(), x.rows());
  for (const int32_t position : positions) {
    D2Q_CHECK(position >= 0 && position < cos.rows(), "position {} of {}", position, cos.rows());
  }
}

void check_accumulation(const Tensor& a, const Tensor& b, const Tensor& sum) {
  const int64_t n = a.cols();
  D2Q_CHECK(b.cols() == n && a.rows() == b.rows() && a.dtype() == b.dtype(), "{}x{} and {}x{}",
            a.rows(), n, b.rows(), b.cols());
  D2Q_CHECK(sum.rows() == n && sum.cols() == n, "sum {}x{} for width {}", sum.rows(), sum.cols(),
            n);
  D2Q_CHECK(a.dtype() == DType::kF32 || a.dtype() == DType::kBF16, "dtype {}",
            static_cast<int>(a.dtype()));
}

void check_output(const Tensor& x, const Tensor& y) {
  D2Q_CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "{}x{} into {}x{}", x.rows(), x.cols(),
            y.rows(), y.cols());
  D2Q_CHECK(x.dtype() == DType::kF32 && (y.dtype() == DType::kF32 || y.dtype() == DType::kBF16),
            "dtypes {} {}", static_cast<int>(x.dtype()), static_cast<int>(y.dtype()));
}

}  // namespace d2q
