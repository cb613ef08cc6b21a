// The dense algebra around the solver: from an input set's sums to the matrices that the column
// walk reads (METHOD.md §4, §8.1), and what a solution costs. Square matrices are [n, n], n the
// inputs of the set; `order` lists stored columns in walking order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "codec/packed_matrix.h"
#include "kernels/tensor.h"

namespace d2q {

/// I + α D Hd⁻¹ of §8.1 in the form that its device applies fastest: one matrix, or its factors.
struct TargetMap {
  Tensor map;        // transpose of α D Hd⁻¹, f32; or empty, and then
  Tensor deviation;  // D [n, n] f32 and
  Tensor factor;     // U [n, n] f32 with Hd⁻¹ = Uᵀ U
  double alpha = 0.0;
  bool empty() const { return map.empty() && deviation.empty(); }
};

/// Sums over the rows of a weight W and of its quantized Ŵ, Δ = Ŵ − W.
struct WeightErrors {
  double symmetric = 0.0;   // Δ G Δᵀ
  double asymmetric = 0.0;  // Δ (W D)ᵀ, 0 without D
};
struct ErrorReport {
  double energy = 0.0;               // W G Wᵀ
  std::vector<WeightErrors> errors;  // of each candidate; empty when the energy is 0
};

class MatrixOps {
 public:
  virtual ~MatrixOps() = default;

  /// The diagonal of a square f32 matrix.
  virtual std::vector<float> diagonal(const Tensor& matrix) = 0;
  /// D of §4 in place of C: cross − gram, 0 in the columns of inputs that are always 0. f32.
  virtual void subtract_gram(const Tensor& gram, const Tensor& cross) = 0;
  /// destination[i, j] = source[order[i], order[j]]; source f32, destination f64.
  virtual void permute(const Tensor& source, std::span<const int64_t> order,
                       const Tensor& destination) = 0;
  /// destination[i, j] = source[i, columns[j]], 0 where columns[j] is negative; f32 or u8.
  virtual void gather_columns(const Tensor& source, std::span<const int64_t> columns,
                              const Tensor& destination) = 0;
  /// Every element of the diagonal of a square f64 matrix: x = 1 where x is 0, then x += value.
  virtual void shift_diagonal(const Tensor& matrix, double value) = 0;
  /// The weights [rows, cols] f32 that unpacked codes (u8) and params (f32 [rows, n_groups *
  /// n_params]) stand for: the bits of codec/packed_matrix.h's dequantize().
  virtual void expand(const PackedLayout& layout, const Tensor& codes, const Tensor& params,
                      const Tensor& weight) = 0;

  /// factor = the upper U with (hessian + damping·mean(diagonal)·I)⁻¹ = Uᵀ U; false when the damped
  /// matrix is not positive definite. Both f64. n³·2/3 flops: with J the reversal, J·Hd·J = L Lᵀ
  /// gives U = J L⁻¹ J, which spares the explicit inverse and the second factorisation.
  virtual bool inverse_factor(const Tensor& hessian, double damping, const Tensor& factor) = 0;
  /// P of §4, strictly upper: alpha · triu(D Uᵀ, 1) U. deviation, factor f64; result f32.
  virtual void asymmetry_matrix(const Tensor& deviation, const Tensor& factor, double alpha,
                                const Tensor& result) = 0;
  /// deviation, factor f64. At most 4 n³ flops.
  virtual TargetMap target_map(const Tensor& deviation, const Tensor& factor, double alpha) = 0;
  /// target = weight · (I + α D Hd⁻¹); both [out, n] f32.
  virtual void apply_target_map(const TargetMap& map, const Tensor& weight,
                                const Tensor& target) = 0;
  /// product = weight · hessian, hessian symmetric; all f32.
  virtual void multiply_symmetric(const Tensor& weight, const Tensor& hessian,
                                  const Tensor& product) = 0;

  /// weight and candidates [out, n]; deviation may be empty. f32 products, sums in f64.
  virtual ErrorReport errors(const Tensor& weight, std::span<const Tensor> candidates,
                             const Tensor& gram, const Tensor& deviation) = 0;
  /// Δ G Δᵀ over all rows, Δ = a − b, as in errors().
  virtual double squared_distance(const Tensor& a, const Tensor& b, const Tensor& gram) = 0;
};

}  // namespace d2q
