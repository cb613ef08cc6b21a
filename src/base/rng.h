// The project's own random numbers: std distributions differ between libraries, and a seed must
// give the same bytes everywhere.
#pragma once

#include <array>
#include <cstdint>

namespace d2q {

/// xoshiro256** seeded through splitmix64. Copyable; not thread-safe.
class Rng {
 public:
  explicit Rng(uint64_t seed);

  uint64_t next_u64();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Uniform integer in [0, bound), without modulo bias. bound >= 1.
  uint64_t below(uint64_t bound);
  /// Standard normal (Box-Muller, one value kept).
  double gaussian();

 private:
  std::array<uint64_t, 4> state_;
  double spare_ = 0.0;
  bool has_spare_ = false;
};

}  // namespace d2q
