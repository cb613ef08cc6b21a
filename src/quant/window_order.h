// Which calibration windows a step of tuning looks at (METHOD.md §9).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/rng.h"

namespace d2q {

/// Calibration windows that only measure, the last ones: a sixteenth, at least one.
int64_t held_out_windows(int64_t samples);

/// The windows [0, n_windows) in an order that is shuffled anew whenever it is used up.
class WindowOrder {
 public:
  WindowOrder(int64_t n_windows, uint64_t seed);
  int64_t next();

 private:
  Rng rng_;
  std::vector<int64_t> windows_;
  size_t next_;
};

}  // namespace d2q
