#include "quant/window_order.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace d2q {

constexpr int64_t kWindowsPerHeldOutOne = 16;

int64_t held_out_windows(int64_t samples) {
  return std::max<int64_t>(1, samples / kWindowsPerHeldOutOne);
}

WindowOrder::WindowOrder(int64_t n_windows, uint64_t seed)
    : rng_(seed), windows_(static_cast<size_t>(n_windows)), next_(windows_.size()) {
  std::iota(windows_.begin(), windows_.end(), 0);
}

int64_t WindowOrder::next() {
  if (next_ == windows_.size()) {
    for (size_t i = windows_.size(); i > 1; --i)
      std::swap(windows_[i - 1], windows_[rng_.below(i)]);
    next_ = 0;
  }
  return windows_[next_++];
}

}  // namespace d2q
