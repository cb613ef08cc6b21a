#include "kernels/cuda/cuda_scaled_hessian.h"

#include "base/error.h"
#include "kernels/cuda/scaled_kernels.h"

namespace d2q {
namespace {

__half* f16(const Tensor& tensor) { return static_cast<__half*>(tensor.raw()); }

}  // namespace

ScaledHessian::ScaledHessian(CudaContext& context, const Tensor& hessian)
    : context_(context),
      roots_(context.allocate(1, hessian.rows(), DType::kF32)),
      scaled_(context.allocate(hessian.rows(), hessian.rows(), DType::kF16)) {
  const int64_t n = hessian.rows();
  D2Q_CHECK(hessian.cols() == n, "Hessian {}x{}", n, hessian.cols());
  const Tensor inverse = context.allocate(1, n, DType::kF32);
  check_cuda(cuda::launch_diagonal_roots(hessian.data<float>(), n, roots_.data<float>(),
                                         inverse.data<float>(), context.stream()),
             "roots of a diagonal");
  check_cuda(cuda::launch_scale_symmetric(hessian.data<float>(), inverse.data<float>(), n,
                                          f16(scaled_), context.stream()),
             "scaling a Hessian");
}

ScaledHessian::Rows ScaledHessian::difference(const Tensor& a, const Tensor& b) const {
  D2Q_CHECK(a.rows() == b.rows() && a.cols() == b.cols() && a.cols() == scaled_.cols(),
            "{}x{} less {}x{}", a.rows(), a.cols(), b.rows(), b.cols());
  Rows result{context_.allocate(a.rows(), a.cols(), DType::kF16),
              context_.allocate(1, a.rows(), DType::kF32)};
  check_cuda(cuda::launch_scaled_difference(a.data<float>(), b.data<float>(), roots_.data<float>(),
                                            a.rows(), a.cols(), f16(result.values),
                                            result.scales.data<float>(), context_.stream()),
             "scaling a difference");
  return result;
}

void ScaledHessian::multiply(const Product& product) const {
  run_gemm(context_, {.m = product.m,
                      .n = product.columns,
                      .k = product.depth,
                      .a = product.left,
                      .lda = product.left_stride,
                      .b = f16(scaled_) + product.row * scaled_.cols() + product.column,
                      .ldb = scaled_.cols(),
                      .input = DType::kF16,
                      .c = product.c,
                      .ldc = product.c_stride,
                      .beta = product.beta});
}

}  // namespace d2q
