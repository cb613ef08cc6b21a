#include "kernels/cuda/cuda_split_product.h"

#include "base/error.h"

namespace d2q {
namespace {

/// Below, the splitting and the extra launches cost more than f32 products do.
constexpr double kSmallProductFlops = 1e9;

__nv_bfloat16* bf16(const Tensor& tensor) { return static_cast<__nv_bfloat16*>(tensor.raw()); }

/// The copies of a gemm's operand along the product's depth. The operand is [depth, width] in
/// memory, or [width, depth] when `deep_rows` is false.
Tensor stacked(CudaContext& context, const void* x, bool deep_rows, int64_t depth, int64_t width,
               int64_t stride, cuda::SplitSide side) {
  const auto* values = static_cast<const float*>(x);
  const Tensor result = deep_rows ? context.allocate(3 * depth, width, DType::kBF16)
                                  : context.allocate(width, 3 * depth, DType::kBF16);
  check_cuda(deep_rows ? cuda::launch_stack_rows(values, depth, width, stride, side, bf16(result),
                                                 context.stream())
                       : cuda::launch_stack_columns(values, width, depth, stride, side,
                                                    bf16(result), context.stream()),
             "splitting a matrix");
  return result;
}

}  // namespace

void run_split_gemm(CudaContext& context, const CudaGemm& gemm) {
  D2Q_CHECK(gemm.input == DType::kF32 && gemm.output == DType::kF32, "split product of dtype {}",
            static_cast<int>(gemm.input));
  const double flops =
      2.0 * static_cast<double>(gemm.m) * static_cast<double>(gemm.n) * static_cast<double>(gemm.k);
  if (flops < kSmallProductFlops) return run_gemm(context, gemm);
  const Tensor left =
      stacked(context, gemm.a, gemm.transpose_a, gemm.k, gemm.m, gemm.lda, cuda::SplitSide::kLeft);
  const Tensor right = stacked(context, gemm.b, !gemm.transpose_b, gemm.k, gemm.n, gemm.ldb,
                               cuda::SplitSide::kRight);
  CudaGemm whole = gemm;
  whole.input = DType::kBF16;
  whole.k = 3 * gemm.k;
  whole.a = left.raw();
  whole.lda = left.cols();
  whole.b = right.raw();
  whole.ldb = right.cols();
  run_gemm(context, whole);
}

Tensor stacked_rows(CudaContext& context, const Tensor& x, cuda::SplitSide side) {
  return stacked(context, x.raw(), true, x.rows(), x.cols(), x.cols(), side);
}

Tensor rounded_pairs(CudaContext& context, const Tensor& a, const Tensor& b) {
  D2Q_CHECK(b.empty() || (b.rows() == a.rows() && b.cols() == a.cols()), "{}x{} and {}x{}",
            a.rows(), a.cols(), b.rows(), b.cols());
  const Tensor pairs = context.allocate(a.rows(), 2 * a.cols(), DType::kBF16);
  check_cuda(
      cuda::launch_rounded_pairs(a.data<float>(), b.empty() ? nullptr : b.data<float>(), a.size(),
                                 static_cast<__nv_bfloat162*>(pairs.raw()), context.stream()),
      "rounding a matrix");
  return pairs;
}

SplitMatrix::SplitMatrix(CudaContext& context, const Tensor& matrix)
    : context_(context), pieces_(context.allocate(2 * matrix.rows(), matrix.cols(), DType::kBF16)) {
  check_cuda(cuda::launch_split_rows(matrix.data<float>(), matrix.rows(), matrix.cols(),
                                     bf16(pieces_), context.stream()),
             "splitting a matrix");
}

void SplitMatrix::multiply(const Tensor& pairs, const Tensor& c) const {
  D2Q_CHECK(
      pairs.cols() == pieces_.rows() && c.rows() == pairs.rows() && c.cols() == pieces_.cols(),
      "{}x{} times {}x{} into {}x{}", pairs.rows(), pairs.cols(), pieces_.rows(), pieces_.cols(),
      c.rows(), c.cols());
  run_gemm(context_, {.m = pairs.rows(),
                      .n = c.cols(),
                      .k = pairs.cols(),
                      .a = pairs.raw(),
                      .lda = pairs.cols(),
                      .b = pieces_.raw(),
                      .ldb = pieces_.cols(),
                      .input = DType::kBF16,
                      .c = c.raw(),
                      .ldc = c.cols()});
}

}  // namespace d2q
