// y = x wᵀ + bias with packed weights on the CPU, never expanding the whole matrix.
#pragma once

#include "base/thread_pool.h"
#include "codec/packed_matrix.h"
#include "kernels/packed_kernels.h"
#include "kernels/tensor.h"

namespace d2q {

/// The most tokens that run on the codes themselves; more expand panels of weights for a GEMM. Near
/// the crossing on a Zen 4 core with bf16 products: sign planes need a dot product a plane.
constexpr int64_t max_mat_vec_tokens(PackedKind kind) {
  return kind == PackedKind::kSignPlanes ? 16 : 48;
}

/// y[T, out] f32 = x[T, in] wᵀ + bias; x f32 or bf16, bias [1, out] f32 or empty.
///
/// T <= max_mat_vec_tokens(): x is quantized to 16-bit integers a block of up to 128 columns
/// (relative error 2.4e-5 on Gaussian x) and meets the codes in integer dot products; every table
/// of kernels gives the same bits, `products` is not used. Larger T: panels of 32 or 64 rows are
/// dequantized a worker at a time into `products` (kF32 or kBF16) and multiplied by gemm.h; extra
/// memory is 64 * in * size(products) a thread and, when x has another dtype, x once more in
/// `products`. The result does not depend on the number of threads.
void packed_linear_cpu(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                       const PackedView& w, const Tensor& bias, const Tensor& y, DType products);

}  // namespace d2q
