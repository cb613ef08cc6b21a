// The solver's inner loops, 16 lanes at a time, one table per ISA. Lanes are rows of a weight
// matrix (or, in the clip search, candidates), so no sum crosses lanes and every ISA adds in the
// same order. Included by ISA files: <cstdint> only.
#pragma once

#include <cstdint>

namespace d2q {

inline constexpr int kSolverLanes = 16;
inline constexpr int kSolverMaxPlanes = 3;
inline constexpr int kSolverMaxLevels = 1 << kSolverMaxPlanes;

/// The levels of one column group for 16 rows.
struct LaneGrid {
  const float* column_scale;  // of the group's columns that are walked
  int n_levels;               // 0: uniform grid, else sign-plane levels
  float levels[kSolverMaxLevels][kSolverLanes];
  float scale[kSolverLanes];  // uniform
  float zero[kSolverLanes];
  float max_code;
};

/// Columns of up to 16 rows walked within one group. Lane-major: element [k][lane] at k * 16 +
/// lane.
struct WalkLanes {
  float* columns;     // [width][16], updated in place; column k becomes its quantized value
  int64_t n_columns;  // columns to walk, the first of `width`
  int64_t width;      // columns up to the end of the block
  const float*
      factor;  // row of U of column k at factor + k * stride, from that block column 0; null = RTN
  const float* asymmetry;  // P likewise, or null
  int64_t stride;
  LaneGrid grid;  // column_scale [n_columns]
  float* codes;   // out [n_columns][16]
  float* errors;  // out [n_columns][16], e of METHOD.md §4
};

/// One group of columns of up to 16 rows in a sweep of coordinate descent, METHOD.md §8.4.
struct DescentLanes {
  float* weights;        // [n_columns][16] ŵ, in and out
  float* gradient;       // [n_columns][16] (ŵ − w*) H of these columns, in and out
  const float* hessian;  // row k of the group's diagonal block at hessian + k * stride
  int64_t n_columns;
  int64_t stride;
  LaneGrid grid;  // column_scale [n_columns]
  float* codes;   // in and out [n_columns][16]
  float* change;  // out [n_columns][16], new ŵ − old ŵ
};

struct SolverKernels {
  const char* name;

  // errors[k] = Σ_i |w_i − ŵ_i|^2.4 for 16 candidate grids (scales[k], zeros[k]), METHOD.md §5.1.
  void (*clip_errors)(const float* values, int64_t n, const float* scales, const float* zeros,
                      float max_code, float* errors) noexcept;

  // Sums of the joint least squares of r for 16 rows, METHOD.md §5.2 (1). x, codes [cols][16];
  // products [planes][16] = Σ ±c x; differing [planes * planes][16], entry p * planes + q (q < p) =
  // Σ c² over columns whose codes differ in bits p and q.
  void (*plane_sums)(const float* x, const int32_t* codes, const float* c, int64_t cols, int planes,
                     float* products, float* differing) noexcept;
  // codes[j][lane] ^= mask[lane].
  void (*flip_codes)(int32_t* codes, int64_t cols, const int32_t* mask) noexcept;
  // numerators[j] += Σ_lane x S, denominators[j] += Σ_lane S², lane by lane in order, over the
  // first n_lanes rows; S = levels[code].
  void (*plane_column_sums)(const float* x, const int32_t* codes, const float* levels, int n_levels,
                            int64_t cols, int64_t n_lanes, float* numerators,
                            float* denominators) noexcept;
  // Every code to the level nearest to x / c; the lower code wins a tie.
  void (*assign_codes)(const float* x, const float* c, const float* levels, int n_levels,
                       int64_t cols, int32_t* codes) noexcept;

  void (*walk)(const WalkLanes& lanes) noexcept;
  void (*descend)(const DescentLanes& lanes) noexcept;
  // Σ a_i b_i, sixteen partial sums added up pairwise.
  float (*dot)(const float* a, const float* b, int64_t n) noexcept;
};

extern const SolverKernels kSolverScalar;
extern const SolverKernels kSolverAvx2;
extern const SolverKernels kSolverAvx512;

}  // namespace d2q
