// Shape checks and launches of the element-wise operations.
#include <algorithm>
#include <vector>

#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

/// Rows are blocks of a launch in places.
void check_rows(int64_t rows) { D2Q_CHECK(rows < (int64_t{1} << 31), "{} rows", rows); }

}  // namespace

cuda::Curve curve_of(Activation act) {
  switch (act) {
    case Activation::kSilu:
      return cuda::Curve::kSilu;
    case Activation::kGelu:
      return cuda::Curve::kGelu;
    case Activation::kGeluTanh:
      return cuda::Curve::kGeluTanh;
    case Activation::kRelu:
      break;
  }
  return cuda::Curve::kRelu;
}

cuda::Values values_of(const Tensor& tensor) {
  switch (tensor.dtype()) {
    case DType::kF32:
      return {tensor.raw(), cuda::Scalar::kF32};
    case DType::kBF16:
      return {tensor.raw(), cuda::Scalar::kBF16};
    case DType::kF16:
      return {tensor.raw(), cuda::Scalar::kF16};
    case DType::kF64:
      return {tensor.raw(), cuda::Scalar::kF64};
    default:
      D2Q_CHECK(false, "dtype {}", static_cast<int>(tensor.dtype()));
      return {};
  }
}

Tensor in_dtype(CudaContext& context, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor result = context.allocate(x.rows(), x.cols(), dtype);
  convert_cuda(context, x, result);
  return result;
}

const int32_t* DeviceIntegers::upload(CudaContext& context, std::span<const int32_t> values) {
  if (!std::equal(values.begin(), values.end(), values_.begin(), values_.end())) {
    const auto n = static_cast<int64_t>(values.size());
    values_.clear();  // should the copy fail
    copy_ = context.allocate(1, n, DType::kI32);
    context.upload(values.data(), copy_.raw(), copy_.n_bytes());
    values_.assign(values.begin(), values.end());
  }
  return copy_.data<int32_t>();
}

void convert_cuda(CudaContext& context, const Tensor& source, const Tensor& destination) {
  D2Q_CHECK(source.rows() == destination.rows() && source.cols() == destination.cols(),
            "{}x{} to {}x{}", source.rows(), source.cols(), destination.rows(), destination.cols());
  const cuda::Values from = values_of(source), to = values_of(destination);
  if (source.empty()) return;
  if (from.type == to.type) {
    check_cuda(cudaMemcpyAsync(to.data, from.data, static_cast<size_t>(source.n_bytes()),
                               cudaMemcpyDeviceToDevice, context.stream()),
               "copying on the GPU");
    return;
  }
  check_cuda(cuda::launch_convert(from, to, source.size(), context.stream()), "convert");
}

void embed_cuda(CudaContext& context, DeviceIntegers& integers, std::span<const int32_t> ids,
                const Tensor& table, const Tensor& y) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(y.rows() == n && y.cols() == table.cols() && y.dtype() == DType::kF32,
            "{} ids of width {} into {}x{}", n, table.cols(), y.rows(), y.cols());
  for (const int32_t id : ids) {
    D2Q_CHECK(id >= 0 && id < table.rows(), "id {} of {}", id, table.rows());
  }
  if (y.empty()) return;
  check_cuda(cuda::launch_embed(integers.upload(context, ids), values_of(table), n, y.cols(),
                                y.data<float>(), context.stream()),
             "embed");
}

void norm_cuda(CudaContext& context, const Tensor& x, const NormParams& params, const Tensor& y) {
  check_output(x, y);
  check_rows(x.rows());
  D2Q_CHECK(params.gain.size() == x.cols(), "gain of {} for {}", params.gain.size(), x.cols());
  D2Q_CHECK(params.shift.empty() || params.shift.size() == x.cols(), "shift of {} for {}",
            params.shift.size(), x.cols());
  check_cuda(
      cuda::launch_norm(x.data<float>(), params.kind == NormKind::kLayer, params.gain.data<float>(),
                        params.shift.empty() ? nullptr : params.shift.data<float>(), params.epsilon,
                        x.rows(), x.cols(), values_of(y), context.stream()),
      "norm");
}

void rope_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& x, int64_t n_heads,
               std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin) {
  check_rope(x, n_heads, positions, cos, sin);
  const int64_t head_dim = x.cols() / n_heads, half = cos.cols();
  if (x.empty()) return;
  check_cuda(cuda::launch_rope(x.data<float>(), x.rows(), n_heads, head_dim, half,
                               integers.upload(context, positions), cos.data<float>(),
                               sin.data<float>(), context.stream()),
             "rope");
}

void gated_activation_cuda(CudaContext& context, Activation act, const Tensor& gate,
                           const Tensor& up, const Tensor& y) {
  check_output(gate, y);
  D2Q_CHECK(up.empty() || (up.rows() == y.rows() && up.cols() == y.cols()), "up {}x{}", up.rows(),
            up.cols());
  check_cuda(cuda::launch_activation(curve_of(act), gate.data<float>(),
                                     up.empty() ? nullptr : up.data<float>(), y.size(),
                                     values_of(y), context.stream()),
             "activation");
}

void add_cuda(CudaContext& context, const Tensor& x, const Tensor& y) {
  D2Q_CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "{}x{} and {}x{}", x.rows(), x.cols(),
            y.rows(), y.cols());
  check_cuda(cuda::launch_add(x.data<float>(), values_of(y), x.size(), context.stream()), "add");
}

void cross_entropy_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& logits,
                        std::span<const int32_t> targets, std::span<double> losses) {
  D2Q_CHECK(
      static_cast<int64_t>(targets.size()) == logits.rows() && losses.size() == targets.size(),
      "{} targets and {} losses for {} rows", targets.size(), losses.size(), logits.rows());
  check_rows(logits.rows());
  for (const int32_t target : targets) {
    D2Q_CHECK(target >= 0 && target < logits.cols(), "target {} of {}", target, logits.cols());
  }
  if (logits.empty()) return;
  const Tensor results = context.allocate(1, logits.rows(), DType::kF64);
  check_cuda(cuda::launch_cross_entropy(logits.data<float>(), integers.upload(context, targets),
                                        logits.rows(), logits.cols(), results.data<double>(),
                                        context.stream()),
             "cross entropy");
  context.download(results.raw(), losses.data(), results.n_bytes());
}

void compare_logits_cuda(CudaContext& context, DeviceIntegers& integers, const Tensor& reference,
                         const Tensor& logits, std::span<const int32_t> targets,
                         std::span<LogitComparison> comparisons) {
  check_compare_logits(reference, logits, targets, comparisons);
  check_rows(logits.rows());
  if (logits.empty()) return;
  const Tensor results = context.allocate(logits.rows(), 4, DType::kF64);
  check_cuda(cuda::launch_compare_logits(reference.data<float>(), logits.data<float>(),
                                         integers.upload(context, targets), logits.rows(),
                                         logits.cols(), results.data<double>(), context.stream()),
             "comparing logits");
  std::vector<double> values(static_cast<size_t>(results.size()));
  context.download(results.raw(), values.data(), results.n_bytes());
  for (size_t row = 0; row < comparisons.size(); ++row) {
    const double* value = &values[4 * row];
    comparisons[row] = {value[0], value[1], value[2], value[3] != 0.0};
  }
}

void mirror_lower_cuda(CudaContext& context, const Tensor& matrix) {
  D2Q_CHECK(matrix.cols() == matrix.rows(), "{}x{} is not square", matrix.rows(), matrix.cols());
  check_cuda(cuda::launch_mirror_lower(matrix.data<float>(), matrix.rows(), context.stream()),
             "mirror");
}

void accumulate_difference_cuda(CudaContext& context, const Tensor& a, const Tensor& b,
                                const Tensor& moments) {
  const int64_t n = a.cols();
  D2Q_CHECK(b.cols() == n && a.rows() == b.rows() && moments.rows() == 2 && moments.cols() == n,
            "{}x{}, {}x{}, moments {}x{}", a.rows(), n, b.rows(), b.cols(), moments.rows(),
            moments.cols());
  const Tensor partial = context.allocate(2 * cuda::difference_slices(a.rows()), n, DType::kF64);
  check_cuda(cuda::launch_accumulate_difference(values_of(a), values_of(b), a.rows(), n,
                                                partial.data<double>(), moments.data<double>(),
                                                context.stream()),
             "difference");
}

int64_t first_non_finite_row_cuda(CudaContext& context, const Tensor& x) {
  if (x.empty()) return -1;
  const std::shared_ptr<void> first = context.allocate_bytes(sizeof(unsigned long long));
  check_cuda(cudaMemsetAsync(first.get(), 0xff, sizeof(unsigned long long), context.stream()),
             "filling");
  check_cuda(cuda::launch_first_non_finite_row(values_of(x), x.rows(), x.cols(),
                                               static_cast<unsigned long long*>(first.get()),
                                               context.stream()),
             "searching for NaN");
  int64_t row = -1;  // what all ones are
  context.download(first.get(), &row, sizeof(row));
  return row;
}

}  // namespace d2q
