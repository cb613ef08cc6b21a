#include "kernels/cuda/cuda_matrix_ops.h"

#include <cusolverDn.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_split_product.h"
#include "kernels/cuda/cuda_triangular.h"
#include "kernels/cuda/matrix_kernels.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

/// Rows of weights whose products are held at once.
constexpr int64_t kBatchRows = 8192;
/// Blocks of a triangular operand that are taken without the zeros beside them: an eighth more work
/// than half at eight.
constexpr int64_t kTriangularBlocks = 8;
/// Columns of a result for which it pays to split the left operand anew.
constexpr int64_t kSmallestPanel = 2048;

void check_cusolver(cusolverStatus_t status, const char* what) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  if (status == CUSOLVER_STATUS_ALLOC_FAILED) throw std::bad_alloc();
  fail(ErrorCode::kIo, "cuSOLVER: {} failed with status {}", what, static_cast<int>(status));
}

/// cuSOLVER on the context's stream.
class FactorisationLibrary {
 public:
  explicit FactorisationLibrary(CudaContext& context) : context_(context) {
    check_cusolver(cusolverDnCreate(&handle_), "starting");
    check_cusolver(cusolverDnSetStream(handle_, context.stream()), "its stream");
    check_cusolver(cusolverDnCreateParams(&params_), "its parameters");
  }
  ~FactorisationLibrary() {
    if (params_ != nullptr) cusolverDnDestroyParams(params_);
    if (handle_ != nullptr) cusolverDnDestroy(handle_);
  }
  FactorisationLibrary(const FactorisationLibrary&) = delete;
  FactorisationLibrary& operator=(const FactorisationLibrary&) = delete;

  /// The lower triangle of a (row-major, [n, n]) becomes L⁻¹ where a = L Lᵀ; false when a is not
  /// positive definite. Row-major lower is column-major upper. `workspace` is another [n, n].
  bool invert_lower_factor(double* a, int64_t n, double* workspace) {
    size_t device_bytes = 0;
    size_t host_bytes = 0;
    check_cusolver(
        cusolverDnXpotrf_bufferSize(handle_, params_, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, n,
                                    CUDA_R_64F, &device_bytes, &host_bytes),
        "sizing a factorisation");
    const Workspace factorising(context_, device_bytes, host_bytes);
    check_cusolver(cusolverDnXpotrf(handle_, params_, CUBLAS_FILL_MODE_UPPER, n, CUDA_R_64F, a, n,
                                    CUDA_R_64F, factorising.device.get(), device_bytes,
                                    factorising.host_data(), host_bytes, factorising.info()),
                   "a factorisation");
    if (factorising.failed()) return false;
    invert_lower_cuda(context_, a, n, workspace);
    return true;
  }

 private:
  struct Workspace {
    Workspace(CudaContext& owner, size_t device_bytes, size_t host_bytes)
        : context(owner),
          device(owner.allocate_bytes(static_cast<int64_t>(device_bytes))),
          status(owner.allocate(1, 1, DType::kI32)),
          host(host_bytes) {}
    void* host_data() const { return const_cast<std::byte*>(host.data()); }
    int* info() const { return status.data<int32_t>(); }
    /// Waits for the call, which still uses the workspaces until then.
    bool failed() const {
      int32_t value = 0;
      context.download(status.raw(), &value, sizeof(value));
      return value != 0;
    }

    CudaContext& context;
    std::shared_ptr<void> device;
    Tensor status;
    std::vector<std::byte> host;
  };

  CudaContext& context_;
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
};

/// `values` as 32-bit integers on the GPU.
Tensor upload_integers(CudaContext& context, std::span<const int64_t> values) {
  const std::vector<int32_t> narrow(values.begin(), values.end());
  const Tensor result = context.allocate(1, static_cast<int64_t>(narrow.size()), DType::kI32);
  context.upload(narrow.data(), result.raw(), result.n_bytes());
  return result;
}

/// body(first row, rows) over batches of a weight's rows.
template <typename Body>
void for_batches(int64_t rows, Body&& body) {
  for (int64_t begin = 0; begin < rows; begin += kBatchRows)
    body(begin, std::min(kBatchRows, rows - begin));
}

/// y = a·b; a, y [rows, n], b [n, n], all f32.
void multiply(CudaContext& context, const Tensor& a, const Tensor& b, const Tensor& y) {
  CudaGemm gemm;
  gemm.m = a.rows();
  gemm.n = b.cols();
  gemm.k = a.cols();
  gemm.a = a.raw();
  gemm.lda = a.cols();
  gemm.b = b.raw();
  gemm.ldb = b.cols();
  gemm.c = y.raw();
  gemm.ldc = y.cols();
  run_split_gemm(context, gemm);
}

/// y = alpha·a·op(u) + beta·y with u upper triangular; a, y [rows, n], all f32.
void multiply_triangular(CudaContext& context, const Tensor& a, const Tensor& u, bool transpose_u,
                         double alpha, double beta, const Tensor& y) {
  const int64_t n = a.cols();
  const int64_t panel = std::max(kSmallestPanel, (n + kTriangularBlocks - 1) / kTriangularBlocks);
  for (int64_t column = 0; column < n; column += panel) {
    const int64_t width = std::min(panel, n - column);
    // Column j takes rows up to j of u, or from j on of its transpose.
    const int64_t first = transpose_u ? column : 0;
    const float* corner = u.data<float>() + (transpose_u ? column * n + column : column);
    run_split_gemm(context, {.transpose_b = transpose_u,
                             .m = a.rows(),
                             .n = width,
                             .k = transpose_u ? n - column : column + width,
                             .a = a.data<float>() + first,
                             .lda = n,
                             .b = corner,
                             .ldb = n,
                             .c = y.data<float>() + column,
                             .ldc = n,
                             .alpha = alpha,
                             .beta = beta});
  }
}

class CudaMatrixOps final : public MatrixOps {
 public:
  explicit CudaMatrixOps(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {}

  std::vector<float> diagonal(const Tensor& matrix) override {
    check_square(matrix, DType::kF32);
    const int64_t n = matrix.rows();
    const Tensor values = context_->allocate(1, n, DType::kF32);
    check_cuda(cuda::launch_diagonal(matrix.data<float>(), n, values.data<float>(), stream()),
               "a diagonal");
    std::vector<float> result(static_cast<size_t>(n));
    context_->download(values.raw(), result.data(), values.n_bytes());
    return result;
  }

  void subtract_gram(const Tensor& gram, const Tensor& cross) override {
    check_square(gram, DType::kF32);
    check_square(cross, DType::kF32, gram.rows());
    check_cuda(
        cuda::launch_subtract_gram(gram.data<float>(), gram.rows(), cross.data<float>(), stream()),
        "the deviation");
  }

  void permute(const Tensor& source, std::span<const int64_t> order,
               const Tensor& destination) override {
    check_permutation(source, order, destination);
    const Tensor places = upload_integers(*context_, order);
    check_cuda(cuda::launch_permute(source.data<float>(), places.data<int32_t>(), source.rows(),
                                    destination.data<double>(), stream()),
               "a permutation");
  }

  void gather_columns(const Tensor& source, std::span<const int64_t> columns,
                      const Tensor& destination) override {
    check_gather(source, columns, destination);
    const Tensor places = upload_integers(*context_, columns);
    const auto gather = [&](const auto* from, auto* to) {
      check_cuda(cuda::launch_gather(from, places.data<int32_t>(), source.rows(), source.cols(),
                                     destination.cols(), to, stream()),
                 "gathering columns");
    };
    if (source.dtype() == DType::kF32) {
      gather(source.data<float>(), destination.data<float>());
    } else {
      gather(source.data<uint8_t>(), destination.data<uint8_t>());
    }
  }

  void shift_diagonal(const Tensor& matrix, double value) override {
    check_square(matrix, DType::kF64);
    check_cuda(cuda::launch_shift_diagonal(matrix.data<double>(), matrix.rows(), value, stream()),
               "shifting a diagonal");
  }

  void expand(const PackedLayout& layout, const Tensor& codes, const Tensor& params,
              const Tensor& weight) override {
    check_expansion(layout, codes, params, weight);
    check_cuda(cuda::launch_expand_codes({.codes = codes.data<uint8_t>(),
                                          .params = params.data<float>(),
                                          .rows = layout.rows,
                                          .cols = layout.cols,
                                          .group_size = layout.group_size,
                                          .n_groups = layout.n_groups(),
                                          .n_params = layout.n_params(),
                                          .uniform = layout.kind == PackedKind::kUniform},
                                         weight.data<float>(), stream()),
               "expanding codes");
  }

  bool inverse_factor(const Tensor& hessian, double damping, const Tensor& factor) override {
    check_square(hessian, DType::kF64);
    check_square(factor, DType::kF64, hessian.rows());
    const int64_t n = hessian.rows();
    const Tensor values = context_->allocate(1, n, DType::kF64);
    check_cuda(cuda::launch_diagonal(hessian.data<double>(), n, values.data<double>(), stream()),
               "a diagonal");
    std::vector<double> of_inputs(static_cast<size_t>(n));
    context_->download(values.raw(), of_inputs.data(), values.n_bytes());
    double mean = 0.0;
    for (const double value : of_inputs) mean += value / static_cast<double>(n);
    const Tensor reversed = context_->allocate(n, n, DType::kF64);
    check_cuda(cuda::launch_reverse(hessian.data<double>(), n, damping * mean,
                                    reversed.data<double>(), stream()),
               "reversing");
    if (!library_) library_ = std::make_unique<FactorisationLibrary>(*context_);
    if (!library_->invert_lower_factor(reversed.data<double>(), n, factor.data<double>()))
      return false;
    check_cuda(
        cuda::launch_reverse_lower(reversed.data<double>(), n, factor.data<double>(), stream()),
        "reversing");
    return first_non_finite_row_cuda(*context_, factor) < 0;
  }

  void asymmetry_matrix(const Tensor& deviation, const Tensor& factor, double alpha,
                        const Tensor& result) override {
    check_square(deviation, DType::kF64);
    check_square(factor, DType::kF64, deviation.rows());
    check_square(result, DType::kF32, deviation.rows());
    const int64_t n = deviation.rows();
    check_cuda(cudaMemsetAsync(result.raw(), 0, static_cast<size_t>(result.n_bytes()), stream()),
               "filling");
    const int64_t block = std::max<int64_t>(128, (n + kTriangularBlocks - 1) / kTriangularBlocks);
    const Tensor left = context_->allocate(std::min(block, n), n, DType::kF64);
    const Tensor product = context_->allocate(std::min(block, n), n, DType::kF64);
    for (int64_t begin = 0; begin < n; begin += block) {
      // Row i of triu(D Uᵀ, 1) has columns > i only, so both products run on the columns from
      // `begin`.
      const int64_t rows = std::min(block, n - begin);
      const int64_t width = n - begin;
      const int64_t corner = begin * n + begin;
      CudaGemm gemm;
      gemm.transpose_b = true;
      gemm.m = rows;
      gemm.n = width;
      gemm.k = width;
      gemm.a = deviation.data<double>() + corner;
      gemm.lda = n;
      gemm.b = factor.data<double>() + corner;
      gemm.ldb = n;
      gemm.input = DType::kF64;
      gemm.c = left.raw();
      gemm.ldc = width;
      gemm.output = DType::kF64;
      gemm.alpha = alpha;
      run_gemm(*context_, gemm);
      check_cuda(cuda::launch_keep_strict_upper(left.data<double>(), rows, width, stream()),
                 "a triangle");
      gemm.transpose_b = false;
      gemm.a = left.raw();
      gemm.lda = width;
      gemm.c = product.raw();
      gemm.alpha = 1.0;
      run_gemm(*context_, gemm);
      check_cuda(cuda::launch_store_strict_upper(product.data<double>(), rows, width,
                                                 result.data<float>() + corner, n, stream()),
                 "a triangle");
    }
  }

  TargetMap target_map(const Tensor& deviation, const Tensor& factor, double alpha) override {
    check_square(deviation, DType::kF64);
    check_square(factor, DType::kF64, deviation.rows());
    TargetMap map;
    map.deviation = in_dtype(*context_, deviation, DType::kF32);
    map.factor = in_dtype(*context_, factor, DType::kF32);
    map.alpha = alpha;
    return map;
  }

  /// ((W D) Uᵀ) U: fewer products than D Hd⁻¹ takes unless W has more than twice as many rows as
  /// columns.
  void apply_target_map(const TargetMap& map, const Tensor& weight, const Tensor& target) override {
    D2Q_CHECK(!map.deviation.empty(), "a target map of another device");
    const int64_t n = weight.cols();
    convert_cuda(*context_, weight, target);
    for_batches(weight.rows(), [&](int64_t begin, int64_t rows) {
      const Tensor first = context_->allocate(rows, n, DType::kF32);
      const Tensor second = context_->allocate(rows, n, DType::kF32);
      multiply(*context_, weight.row_range(begin, rows), map.deviation, first);
      multiply_triangular(*context_, first, map.factor, true, 1.0, 0.0, second);
      multiply_triangular(*context_, second, map.factor, false, map.alpha, 1.0,
                          target.row_range(begin, rows));
    });
  }

  void multiply_symmetric(const Tensor& weight, const Tensor& hessian,
                          const Tensor& product) override {
    for_batches(weight.rows(), [&](int64_t begin, int64_t rows) {
      multiply(*context_, weight.row_range(begin, rows), hessian, product.row_range(begin, rows));
    });
  }

  ErrorReport errors(const Tensor& weight, std::span<const Tensor> candidates, const Tensor& gram,
                     const Tensor& deviation) override {
    check_errors(weight, candidates, gram, deviation);
    const int64_t n = weight.cols();
    CudaDot energy(*context_);
    std::vector<CudaDot> symmetric(candidates.size(), energy);
    std::vector<CudaDot> asymmetric(candidates.size(), energy);
    // Left operands are rounded. Squares make up for it; in the asymmetric sum the errors are
    // independent and leave 2^-9 over the root of the number of weights.
    const SplitMatrix by_gram(*context_, gram);
    std::optional<SplitMatrix> by_deviation;
    if (!deviation.empty()) by_deviation.emplace(*context_, deviation);
    for_batches(weight.rows(), [&](int64_t begin, int64_t rows) {
      const Tensor w = weight.row_range(begin, rows);
      const Tensor product = context_->allocate(rows, n, DType::kF32);
      const Tensor pairs = rounded_pairs(*context_, w, {});
      by_gram.multiply(pairs, product);
      energy.add_quadratic(w, {}, product);
      if (by_deviation) {
        by_deviation->multiply(pairs, product);
        for (size_t i = 0; i < candidates.size(); ++i)
          asymmetric[i].add(candidates[i].row_range(begin, rows), w, product);
      }
      for (size_t i = 0; i < candidates.size(); ++i) {
        const Tensor candidate = candidates[i].row_range(begin, rows);
        by_gram.multiply(rounded_pairs(*context_, candidate, w), product);
        symmetric[i].add_quadratic(candidate, w, product);
      }
    });
    ErrorReport report;
    report.energy = energy.total();
    if (!(report.energy > 0.0)) return report;
    for (size_t i = 0; i < candidates.size(); ++i)
      report.errors.push_back({symmetric[i].total(), asymmetric[i].total()});
    return report;
  }

  double squared_distance(const Tensor& a, const Tensor& b, const Tensor& gram) override {
    check_errors(b, {&a, 1}, gram, {});
    CudaDot sum(*context_);
    const SplitMatrix by_gram(*context_, gram);
    for_batches(a.rows(), [&](int64_t begin, int64_t rows) {
      const Tensor x = a.row_range(begin, rows), y = b.row_range(begin, rows);
      const Tensor product = context_->allocate(rows, a.cols(), DType::kF32);
      by_gram.multiply(rounded_pairs(*context_, x, y), product);
      sum.add_quadratic(x, y, product);
    });
    return sum.total();
  }

 private:
  cudaStream_t stream() const { return context_->stream(); }

  std::shared_ptr<CudaContext> context_;
  std::unique_ptr<FactorisationLibrary> library_;  // started when it is first needed
};

}  // namespace

void CudaDot::add(const Tensor& a, const Tensor& b, const Tensor& g, cuda::DotOperand operand) {
  const Tensor partial = context_.allocate(1, cuda::kObjectiveBlocks, DType::kF64);
  check_cuda(cuda::objective_partials(a.data<float>(), b.empty() ? nullptr : b.data<float>(),
                                      g.data<float>(), a.size(), operand, partial.data<double>(),
                                      context_.stream()),
             "a sum of products");
  partials_.push_back(partial);
}

double CudaDot::total() {
  double sum = 0.0;
  for (const Tensor& partial : partials_) {
    double values[cuda::kObjectiveBlocks];
    context_.download(partial.raw(), values, partial.n_bytes());
    for (const double value : values) sum += value;
  }
  return sum;
}

std::unique_ptr<MatrixOps> make_cuda_matrix_ops(std::shared_ptr<CudaContext> context) {
  return std::make_unique<CudaMatrixOps>(std::move(context));
}

}  // namespace d2q
