// The parameters of one column group for the 16 rows that walk or descend together.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/sign_planes.h"
#include "kernels/solver_kernels.h"
#include "kernels/solver_ops.h"

namespace d2q {

/// The levels from rows of `params` with the given stride; lanes beyond n_rows repeat the last row.
inline void load_lane_grid(const Grid& grid, const float* params, int64_t stride, int64_t n_rows,
                           LaneGrid& lanes) {
  const auto parameter = [&](int p, int64_t lane) {
    return params[std::min(lane, n_rows - 1) * stride + p];
  };
  lanes.max_code = static_cast<float>((1 << grid.bits) - 1);
  if (grid.kind == GridKind::kUniform) {
    lanes.n_levels = 0;
    for (int64_t lane = 0; lane < kSolverLanes; ++lane) {
      lanes.scale[lane] = parameter(0, lane);
      lanes.zero[lane] = parameter(1, lane);
    }
    return;
  }
  lanes.n_levels = 1 << grid.bits;
  float r[kSolverMaxPlanes][kSolverLanes];
  for (int p = 0; p < grid.bits; ++p) {
    for (int64_t lane = 0; lane < kSolverLanes; ++lane) r[p][lane] = parameter(p, lane);
  }
  plane_levels(r, grid.bits, lanes.levels);
}

}  // namespace d2q
