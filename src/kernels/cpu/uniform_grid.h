// METHOD.md §5.1: uniform asymmetric grid with clip search, one row's group at a time.
#pragma once

#include <cstdint>

namespace d2q {

/// ŵ = scale·(q − zero), q in [0, 2^bits). Both are exact in fp16, as they are stored.
struct UniformParams {
  float scale = 1.0f;
  float zero = 0.0f;
};

/// Fits values[0, n). With `clip_search` the range [min, max] (0 included) is shrunk by p = 1 − i/100,
/// i < 80, and the p with the least Σ|w − ŵ|^2.4 kept; without, p = 1.
UniformParams fit_uniform(const float* values, int64_t n, int bits, bool clip_search);

/// |x|^2.4 to 1e-5 relative for finite x, 0 for 0; cheap enough for 80 candidates a weight.
float power_2_4(float x);

}  // namespace d2q
