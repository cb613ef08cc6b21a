// The solver's coarse operations on one linear layer: METHOD.md §4 (column walk) and §5 (grids).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/tensor.h"

namespace d2q {

/// Columns [begin, begin + size) that share quantizer parameters; `index` is the group's place in
/// the stored (unpermuted) order.
struct ColumnGroup {
  int64_t begin = 0;
  int64_t size = 0;
  int64_t index = 0;
};

enum class GridKind { kUniform, kSignPlanes };

/// What a group's weights may become. Uniform: ŵ = scale·(q − zero), METHOD.md §5.1. Sign planes:
/// ŵ = c[j]·Σ ±r_k, §5.2. `bits` levels are 2^bits in both.
struct Grid {
  GridKind kind = GridKind::kUniform;
  int bits = 2;
  bool clip_search = true;    // uniform only
  bool column_scale = false;  // sign planes only: fit c, else c = 1
  int fit_iterations = 15;    // sign planes only
  /// Numbers kept per row and group: {scale, zero} or {r0, r1[, r2]}.
  int n_params() const { return kind == GridKind::kUniform ? 2 : bits; }
};

/// In and out of SolverOps::column_walk. All tensors f32 unless said; columns are permuted.
struct ColumnWalk {
  Tensor weight;          // [out, in]; in: weights; out: quantized weights ŵ (c included)
  Tensor inverse_factor;  // [in, in] upper U with Hess⁻¹ = Uᵀ U; empty = plain rounding (RTN)
  Tensor asymmetry;       // [in, in] strictly upper P of §4; empty = GPTQ
  Grid grid;
  std::span<const ColumnGroup> groups;  // in walking order, covering all columns
  Tensor codes;         // out: [out, in] u8; uniform: q; sign planes: bit k set = +r_k
  Tensor params;        // out: [out, n_groups * n_params], group g's at ColumnGroup::index
  Tensor column_scale;  // out: [1, in], c (1 where none is fitted); geometric mean 1 in each group
};

/// In and out of the SolverOps that lower, with METHOD.md §8.3 and §8.4,
/// J = Σ_rows (ŵ − w*) H (ŵ − w*)ᵀ. All tensors f32 unless said; columns in walking order.
struct Refinement {
  Tensor target;          // [out, in] W*
  Tensor hessian;         // [in, in] damped, positive definite
  Tensor target_product;  // [out, in] W*·H
  Grid grid;
  std::span<const ColumnGroup> groups;
  Tensor column_scale;  // [1, in] c, in and out
  Tensor codes;         // [out, in] u8, in and out
  Tensor params;        // [out, n_groups * n_params], in and out
  Tensor weight;        // [out, in] ŵ, in and out
};

/// The refining operations return how J changed where their device knows it without another
/// product.
class SolverOps {
 public:
  virtual ~SolverOps() = default;
  /// Walks the columns once. O(out·in²) flops. Rows in parallel; same result on any thread count.
  virtual void column_walk(const ColumnWalk& walk) = 0;
  /// §8.3: with the codes fixed, each row's parameters by least squares under H, through the block
  /// structure of the normal equations. K·2·out·in² flops by GEMM (half by symmetry), K = n_params.
  virtual std::optional<double> refit_scales(const Refinement& refinement) = 0;
  /// §8.4: one sweep of coordinate descent over the codes. 4·out·in² flops by GEMM.
  virtual std::optional<double> refine_codes(const Refinement& refinement) = 0;
  /// Column scale c by least squares with codes and row scales fixed (sign planes): all rows share
  /// it. Kept only if J falls. 2·out·in² flops by GEMM and some dozen products with an [in, in]
  /// matrix. c's geometric mean may leave 1.
  virtual std::optional<double> refit_column_scale(const Refinement& refinement) = 0;
  /// J of the weights as they stand, summed over rows. 2·out·in² flops by GEMM.
  virtual double objective(const Refinement& refinement) = 0;
};

}  // namespace d2q
