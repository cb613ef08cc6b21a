// METHOD.md §5.2: ŵ[i,j] = c[j]·(±r0[i] ± r1[i] [± r2[i]]), fitted to a whole group of columns at
// once.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "kernels/solver_kernels.h"

namespace d2q {

/// A group's columns of a matrix: element (i, j) is data[i * stride + j].
struct GroupBlock {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

/// ±r0 ± r1 (± r2): bit k of `code` set means +r_k. params: [planes].
inline float sign_plane_level(const float* params, int planes, int code) {
  float level = 0.0f;
  for (int k = 0; k < planes; ++k) level += (code >> k & 1) != 0 ? params[k] : -params[k];
  return level;
}

/// levels[code][lane] of 16 rows from r[plane][lane]: bit p of the code set = +r[p], clear = −r[p].
void plane_levels(const float (*r)[kSolverLanes], int planes, float (*levels)[kSolverLanes]);

/// Fits r [rows, planes] (row-major) and, when `fit_column_scale`, c [cols] by `iterations` rounds
/// of alternating least squares; else c is set to 1. On return c has geometric mean 1 (its factor
/// moved into r, METHOD.md §5.2) and every r is >= 0 and exact in fp16. The objective Σ(X − ŵ)²
/// does not rise from round to round before that rounding. Same result on any thread count.
void fit_sign_planes(const SolverKernels& kernels, const GroupBlock& block, int planes,
                     int iterations, bool fit_column_scale, std::span<float> r, std::span<float> c,
                     ThreadPool& pool);

}  // namespace d2q
