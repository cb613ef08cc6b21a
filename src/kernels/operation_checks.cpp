#include "kernels/operation_checks.h"

#include "base/error.h"
#include "kernels/device.h"

namespace d2q {

void check_transfer(const Tensor& source, const Tensor& destination) {
  D2Q_CHECK(source.rows() == destination.rows() && source.cols() == destination.cols() &&
                source.dtype() == destination.dtype(),
            "{}x{} of dtype {} into {}x{} of dtype {}", source.rows(), source.cols(),
            static_cast<int>(source.dtype()), destination.rows(), destination.cols(),
            static_cast<int>(destination.dtype()));
}

void check_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y) {
  const int64_t tokens = x.rows(), in = w.cols(), out = w.rows();
  D2Q_CHECK(x.cols() == in && y.rows() == tokens && y.cols() == out, "{}x{} times {}x{} into {}x{}",
            tokens, x.cols(), out, in, y.rows(), y.cols());
  D2Q_CHECK(bias.empty() || bias.size() == out, "bias of {} for {} outputs", bias.size(), out);
  const bool f32 = w.dtype() == DType::kF32;
  D2Q_CHECK(f32 ? x.dtype() == DType::kF32 : w.dtype() == DType::kBF16, "x and w dtypes {} {}",
            static_cast<int>(x.dtype()), static_cast<int>(w.dtype()));
}

void check_packed_linear(const Tensor& x, const PackedLayout& w, const Tensor& bias,
                         const Tensor& y, DType products) {
  validate(w, "packed linear");
  D2Q_CHECK(x.cols() == w.cols, "x has {} columns, weights {}", x.cols(), w.cols);
  D2Q_CHECK(x.dtype() == DType::kF32 || x.dtype() == DType::kBF16, "x dtype {}",
            static_cast<int>(x.dtype()));
  D2Q_CHECK(y.rows() == x.rows() && y.cols() == w.rows && y.dtype() == DType::kF32,
            "y {}x{} for {}x{}", y.rows(), y.cols(), x.rows(), w.rows);
  D2Q_CHECK(bias.empty() || (bias.size() == w.rows && bias.dtype() == DType::kF32),
            "bias of {} for {} rows", bias.size(), w.rows);
  D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products dtype {}",
            static_cast<int>(products));
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

void check_decode_embed(const Tensor& tokens, const Linear& table, const Tensor& y) {
  const int64_t width = table.packed ? table.packed->layout.cols : table.dense.cols();
  D2Q_CHECK(tokens.size() == y.rows() && tokens.dtype() == DType::kI32 && y.cols() == width &&
                y.dtype() == DType::kF32,
            "{} tokens of width {} into {}x{}", tokens.size(), width, y.rows(), y.cols());
}

void check_projections(const Tensor& x, std::span<const Linear* const> linears, const Tensor& y) {
  int64_t rows = 0;
  for (const Linear* linear : linears) {
    const int64_t cols = linear->packed ? linear->packed->layout.cols : linear->dense.cols();
    D2Q_CHECK(cols == x.cols(), "x has {} columns, weights {}", x.cols(), cols);
    D2Q_CHECK(linear->bias.empty() || linear->bias.size() == linear->rows(), "bias of {} for {}",
              linear->bias.size(), linear->rows());
    rows += linear->rows();
  }
  D2Q_CHECK(x.rows() == y.rows() && y.cols() == rows && x.dtype() == DType::kF32 &&
                y.dtype() == DType::kF32,
            "x {}x{}, y {}x{}, {} rows of weights", x.rows(), x.cols(), y.rows(), y.cols(), rows);
}

void check_decode_attention(const Tensor& projections, const Tensor& positions,
                            const AttentionShape& shape, const DecodeAttention& attention,
                            const Tensor& keys, const Tensor& values, const Tensor& y) {
  const int64_t n = y.rows(), dim = shape.head_dim;
  D2Q_CHECK(n > 0 && shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
            "{} sequences, {} heads share {} kv heads", n, shape.n_heads, shape.n_kv_heads);
  D2Q_CHECK(projections.rows() == n && y.cols() == shape.n_heads * dim &&
                projections.cols() == (shape.n_heads + 2 * shape.n_kv_heads) * dim &&
                projections.dtype() == DType::kF32 && y.dtype() == DType::kF32,
            "projections {}x{}, y {}x{}", projections.rows(), projections.cols(), n, y.cols());
  D2Q_CHECK(positions.size() == n && positions.dtype() == DType::kI32, "{} positions for {}",
            positions.size(), n);
  // Devices with a cache in 8 bits check its rows where they read them.
  const bool f16 = keys.dtype() == DType::kF16 && keys.cols() == shape.n_kv_heads * dim;
  D2Q_CHECK(keys.rows() > 0 && keys.rows() % n == 0 && (f16 || keys.dtype() == DType::kU8) &&
                values.rows() == keys.rows() && values.cols() == keys.cols() &&
                values.dtype() == keys.dtype(),
            "keys {}x{}, values {}x{} for {} sequences", keys.rows(), keys.cols(), values.rows(),
            values.cols(), n);
  D2Q_CHECK(2 * attention.cos.cols() <= dim && attention.sin.cols() == attention.cos.cols() &&
                attention.cos.rows() >= keys.rows() / n &&
                attention.sin.rows() == attention.cos.rows(),
            "rotation tables {}x{} for heads of {} and {} positions", attention.cos.rows(),
            attention.cos.cols(), dim, keys.rows() / n);
  for (const NormParams* norm : {attention.q_norm, attention.k_norm}) {
    D2Q_CHECK(norm == nullptr ||
                  (norm->kind == NormKind::kRms && norm->gain.size() == dim && norm->shift.empty()),
              "norm of heads with gain of {} for {}", norm->gain.size(), dim);
  }
}

void check_groups(std::span<const ColumnGroup> groups, int64_t n) {
  int64_t covered = 0;
  for (const ColumnGroup& group : groups) {
    D2Q_CHECK(group.begin == covered && group.size > 0, "group at {} after {}", group.begin,
              covered);
    covered += group.size;
  }
  D2Q_CHECK(covered == n, "groups cover {} of {} columns", covered, n);
}

void check_column_walk(const ColumnWalk& walk) {
  const int64_t rows = walk.weight.rows();
  const int64_t n = walk.weight.cols();
  check_groups(walk.groups, n);
  const auto n_groups = static_cast<int64_t>(walk.groups.size());
  D2Q_CHECK(walk.params.rows() == rows && walk.params.cols() == n_groups * walk.grid.n_params(),
            "params {}x{}", walk.params.rows(), walk.params.cols());
  D2Q_CHECK(walk.codes.rows() == rows && walk.codes.cols() == n, "codes {}x{}", walk.codes.rows(),
            walk.codes.cols());
  D2Q_CHECK(walk.column_scale.size() == n, "column scale {}", walk.column_scale.size());
}

void check_tuned_linear(const TunedLinear& linear) {
  const int64_t rows = linear.codes.rows(), cols = linear.codes.cols();
  D2Q_CHECK(linear.codes.dtype() == DType::kU8, "codes of dtype {}",
            static_cast<int>(linear.codes.dtype()));
  D2Q_CHECK(linear.planes >= 1 && linear.planes <= kMaxTunedPlanes && linear.group_size > 0,
            "{} planes in groups of {}", linear.planes, linear.group_size);
  const int64_t n_groups = linear.n_groups();
  D2Q_CHECK(linear.params.rows() == rows && linear.params.cols() == n_groups * linear.planes,
            "params {}x{} for {} rows of {} groups of {} planes", linear.params.rows(),
            linear.params.cols(), rows, n_groups, linear.planes);
  D2Q_CHECK(linear.column_scale.size() == cols, "{} column scales for {}",
            linear.column_scale.size(), cols);
}

void check_square(const Tensor& matrix, DType dtype, int64_t n) {
  D2Q_CHECK(matrix.rows() == matrix.cols() && (n < 0 || matrix.rows() == n) && matrix.rows() > 0 &&
                matrix.dtype() == dtype,
            "{}x{} of dtype {}, expected a square of {} of dtype {}", matrix.rows(), matrix.cols(),
            static_cast<int>(matrix.dtype()), n, static_cast<int>(dtype));
}

void check_permutation(const Tensor& source, std::span<const int64_t> order,
                       const Tensor& destination) {
  check_square(source, DType::kF32);
  check_square(destination, DType::kF64, source.rows());
  D2Q_CHECK(static_cast<int64_t>(order.size()) == source.rows(), "order of {} for {}", order.size(),
            source.rows());
  for (const int64_t column : order)
    D2Q_CHECK(column >= 0 && column < source.cols(), "column {} of {}", column, source.cols());
}

void check_gather(const Tensor& source, std::span<const int64_t> columns,
                  const Tensor& destination) {
  D2Q_CHECK(destination.rows() == source.rows() &&
                destination.cols() == static_cast<int64_t>(columns.size()),
            "{} columns of {}x{} into {}x{}", columns.size(), source.rows(), source.cols(),
            destination.rows(), destination.cols());
  D2Q_CHECK(source.dtype() == destination.dtype() &&
                (source.dtype() == DType::kF32 || source.dtype() == DType::kU8),
            "dtypes {} {}", static_cast<int>(source.dtype()),
            static_cast<int>(destination.dtype()));
  for (const int64_t column : columns)
    D2Q_CHECK(column < source.cols(), "column {} of {}", column, source.cols());
}

void check_expansion(const PackedLayout& layout, const Tensor& codes, const Tensor& params,
                     const Tensor& weight) {
  validate(layout, "expansion");
  D2Q_CHECK(codes.size() == layout.rows * layout.cols && codes.dtype() == DType::kU8 &&
                params.size() == layout.rows * layout.n_groups() * layout.n_params() &&
                params.dtype() == DType::kF32,
            "{} codes and {} parameters for {}x{}", codes.size(), params.size(), layout.rows,
            layout.cols);
  D2Q_CHECK(
      weight.rows() == layout.rows && weight.cols() == layout.cols && weight.dtype() == DType::kF32,
      "weight {}x{} for {}x{}", weight.rows(), weight.cols(), layout.rows, layout.cols);
}

void check_errors(const Tensor& weight, std::span<const Tensor> candidates, const Tensor& gram,
                  const Tensor& deviation) {
  check_square(gram, DType::kF32, weight.cols());
  if (!deviation.empty()) check_square(deviation, DType::kF32, weight.cols());
  D2Q_CHECK(weight.dtype() == DType::kF32, "weight of dtype {}", static_cast<int>(weight.dtype()));
  for (const Tensor& candidate : candidates) {
    D2Q_CHECK(candidate.rows() == weight.rows() && candidate.cols() == weight.cols() &&
                  candidate.dtype() == DType::kF32,
              "candidate {}x{} for {}x{}", candidate.rows(), candidate.cols(), weight.rows(),
              weight.cols());
  }
}

void check_divergence(const Tensor& reference, const Tensor& logits, const Tensor& d_logits) {
  for (const Tensor* tensor : {&reference, &d_logits}) {
    D2Q_CHECK(tensor->rows() == logits.rows() && tensor->cols() == logits.cols() &&
                  tensor->dtype() == DType::kF32,
              "{}x{} of dtype {} beside logits {}x{}", tensor->rows(), tensor->cols(),
              static_cast<int>(tensor->dtype()), logits.rows(), logits.cols());
  }
  D2Q_CHECK(logits.dtype() == DType::kF32, "logits of dtype {}", static_cast<int>(logits.dtype()));
}

void check_compare_logits(const Tensor& reference, const Tensor& logits,
                          std::span<const int32_t> targets,
                          std::span<const LogitComparison> comparisons) {
  D2Q_CHECK(reference.rows() == logits.rows() && reference.cols() == logits.cols(),
            "{}x{} against {}x{}", logits.rows(), logits.cols(), reference.rows(),
            reference.cols());
  D2Q_CHECK(
      static_cast<int64_t>(targets.size()) == logits.rows() && comparisons.size() == targets.size(),
      "{} targets and {} results for {} rows", targets.size(), comparisons.size(), logits.rows());
  for (const int32_t target : targets)
    D2Q_CHECK(target >= 0 && target < logits.cols(), "target {} of {}", target, logits.cols());
}

}  // namespace d2q
