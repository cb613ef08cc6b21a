// METHOD.md §5.2: ŵ[i,j] = c[j]·(±r0[i] ± r1[i] [± r2[i]]), fitted to a whole group of columns at once.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace d2q {

inline constexpr int kMaxPlanes = 3;

/// A group's columns of a matrix: element (i, j) is data[i * stride + j].
struct GroupBlock {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

/// Level k (bit p of k set = +r[p]) of one row.
inline float plane_level(const float* r, int planes, int code) {
  float level = 0.0f;
  for (int p = 0; p < planes; ++p) level += (code >> p & 1) != 0 ? r[p] : -r[p];
  return level;
}

/// Fits r [rows, planes] (row-major) and, when `fit_column_scale`, c [cols] by `iterations` rounds of
/// alternating least squares; else c is set to 1. On return c has geometric mean 1 (its factor moved
/// into r, METHOD.md §5.2) and every r is >= 0 and exact in fp16. The objective Σ(X − ŵ)² does not rise
/// from round to round before that rounding. Same result on any thread count.
void fit_sign_planes(const GroupBlock& block, int planes, int iterations, bool fit_column_scale,
                     std::span<float> r, std::span<float> c, ThreadPool& pool);

}  // namespace d2q
