#include "kernels/cuda/cuda_triangular.h"

#include <algorithm>

#include "kernels/cuda/triangular_kernels.h"

namespace d2q {
namespace {

/// Blocks of a triangular operand that are taken without the zeros beside them.
constexpr int64_t kTriangularBlocks = 4;
/// Below, one product is faster than several of smaller depth.
constexpr int64_t kSmallestBlock = 512;

/// Blocks on the diagonal of a [n, n], row-major.
struct Diagonal {
  CudaContext& context;
  double* a;
  int64_t n;
  double* workspace;
};

int64_t block_of(int64_t size) {
  return std::max(kSmallestBlock, (size + kTriangularBlocks - 1) / kTriangularBlocks);
}

CudaGemm f64_product(const Diagonal& d) {
  CudaGemm gemm;
  gemm.input = gemm.output = DType::kF64;
  gemm.lda = gemm.ldb = gemm.ldc = d.n;
  return gemm;
}

/// [A 0; B C] at `begin` with A [size, size] and C [rest, rest] inverted: B = −C·B·A.
void join(const Diagonal& d, int64_t begin, int64_t size, int64_t rest) {
  const double* upper = d.a + begin * d.n + begin;
  const double* lower = d.a + (begin + size) * d.n + begin + size;
  double* between = d.a + (begin + size) * d.n + begin;
  for (int64_t row = 0; row < rest; row += block_of(rest)) {
    CudaGemm gemm = f64_product(d);
    gemm.m = std::min(block_of(rest), rest - row);
    gemm.n = size;
    gemm.k = row + gemm.m;
    gemm.a = lower + row * d.n;
    gemm.b = between;
    gemm.c = d.workspace + row * size;
    gemm.ldc = size;
    run_gemm(d.context, gemm);
  }
  for (int64_t column = 0; column < size; column += block_of(size)) {
    CudaGemm gemm = f64_product(d);
    gemm.m = rest;
    gemm.n = std::min(block_of(size), size - column);
    gemm.k = size - column;
    gemm.a = d.workspace + column;
    gemm.lda = size;
    gemm.b = upper + column * d.n + column;
    gemm.c = between + column;
    gemm.alpha = -1.0;
    run_gemm(d.context, gemm);
  }
}

/// join() of `count` neighbouring pairs of equal blocks, all at once.
void join_pairs(const Diagonal& d, int64_t size, int64_t count) {
  const int64_t stride = 2 * size * (d.n + 1);
  double* between = d.a + size * d.n;
  const auto multiply = [&](double alpha, const double* left, int64_t left_row, int64_t left_stride,
                            const double* right, double* result, int64_t result_row,
                            int64_t result_stride) {
    const double zero = 0.0;
    // cuBLAS is column-major: operands are exchanged.
    check_cublas(
        cublasDgemmStridedBatched_64(d.context.blas(), CUBLAS_OP_N, CUBLAS_OP_N, size, size, size,
                                     &alpha, right, d.n, stride, left, left_row, left_stride, &zero,
                                     result, result_row, result_stride, count),
        "products of blocks");
  };
  multiply(1.0, d.a + size * (d.n + 1), d.n, stride, between, d.workspace, size, size * size);
  multiply(-1.0, d.workspace, size, size * size, d.a, between, d.n, stride);
}

}  // namespace

void invert_lower_cuda(CudaContext& context, double* a, int64_t n, double* workspace) {
  check_cuda(cuda::launch_invert_triangles(a, n, context.stream()), "inverting blocks");
  const Diagonal diagonal{context, a, n, workspace};
  for (int64_t size = cuda::kTriangleSize; size < n; size *= 2) {
    const int64_t n_pairs = n / (2 * size);
    if (n_pairs > 1) {
      join_pairs(diagonal, size, n_pairs);
    } else if (n_pairs == 1) {
      join(diagonal, 0, size, size);
    }
    const int64_t begin = n_pairs * 2 * size;
    if (n - begin > size) join(diagonal, begin, size, n - begin - size);
  }
}

}  // namespace d2q
