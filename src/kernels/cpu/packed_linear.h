// y = x wᵀ + bias with packed weights on the CPU, never expanding the whole matrix.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "codec/packed_matrix.h"
#include "kernels/cpu/quantized_activations.h"
#include "kernels/device.h"
#include "kernels/packed_kernels.h"
#include "kernels/tensor.h"

namespace d2q {

/// The most tokens that run on the codes themselves; more expand panels of weights for a GEMM. Near
/// the crossing on a Zen 4 core with bf16 products: sign planes need a dot product a plane.
constexpr int64_t max_mat_vec_tokens(PackedKind kind) {
  return kind == PackedKind::kSignPlanes ? 16 : 48;
}

/// y [T, w.rows] f32 = x wᵀ + bias; bias [1, w.rows] f32 or empty.
struct PackedProductView {
  PackedView w;
  Tensor bias;
  Tensor y;
  bool arranged = false;  // whether w's codes come from PackedMultiplier::arrange()
};

/// Products with packed matrices. Keeps its scratch memory between calls; used from one thread.
class PackedMultiplier {
 public:
  PackedMultiplier(ThreadPool& pool, const PackedKernels& kernels,
                   ActivationBits activations = ActivationBits::k16)
      : pool_(pool), kernels_(kernels), activations_(activations) {}

  /// The products of one x [T, in], f32 or bf16, with several matrices, in one parallel loop.
  ///
  /// T <= max_mat_vec_tokens(): x is quantized a block of up to 128 columns to 16- or 8-bit
  /// integers (relative error 2.9e-5 or 6e-3 on Gaussian x) and meets the codes in integer dot
  /// products; every table of kernels gives the same bits, `precision` is not used. Larger T:
  /// panels of 32 to 128 rows are dequantized a worker at a time into `precision` (kF32 or kBF16)
  /// and multiplied by gemm.h; extra memory is up to 128 * in * size(precision) a thread and, when
  /// x has another dtype, x once more in `precision`. The result does not depend on the number of
  /// threads.
  void multiply(const Tensor& x, std::span<const PackedProductView> products, DType precision);

  /// Whether one token meets such codes faster once they are arranged: AVX2 looks sign planes up in
  /// an order of its own. Products take either order, and give the same bits.
  bool arranges(const PackedLayout& layout) const;
  /// Writes codes_bytes(w.layout) bytes that PackedProductView::arranged stands for, where
  /// arranges(w.layout). Reads and writes each byte once.
  void arrange(const PackedView& w, uint8_t* out);
  /// One row, [w.layout.cols], of the weights whose codes are `arranged`.
  void dequantize_arranged_row(const PackedView& arranged, int64_t row, std::span<float> out) const;

 private:
  static constexpr size_t kMaxFusedProducts = 4;

  bool uses_lookup(const PackedProductView& product, int64_t n_tokens) const;
  void multiply_codes(const Tensor& x, std::span<const PackedProductView> products);

  ThreadPool& pool_;
  const PackedKernels& kernels_;
  ActivationBits activations_;
  QuantizedActivations quantized_;
};

}  // namespace d2q
