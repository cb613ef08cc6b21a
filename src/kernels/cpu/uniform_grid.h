// METHOD.md §5.1: uniform asymmetric grid with clip search, one row's group at a time.
#pragma once

#include <cstdint>

#include "kernels/solver_kernels.h"

namespace d2q {

/// ŵ = scale·(q − zero), q in [0, 2^bits). Both are exact in fp16, as they are stored.
struct UniformParams {
  float scale = 1.0f;
  float zero = 0.0f;
};

/// Fits values[0, n). With `clip_search` the range [min, max] (0 included) is shrunk by p = 1 −
/// i/100, i < 80, and the p with the least Σ|w − ŵ|^2.4 kept; without, p = 1.
UniformParams fit_uniform(const SolverKernels& kernels, const float* values, int64_t n, int bits,
                          bool clip_search);

}  // namespace d2q
