#include "kernels/cpu/uniform_grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/half.h"
#include "base/rng.h"

namespace d2q {
namespace {

double power_error(const std::vector<float>& w, double scale, double zero, int max_code) {
  double sum = 0.0;
  for (const float value : w) {
    const double q = std::clamp(std::nearbyint(static_cast<double>(value) / scale) + zero, 0.0,
                                static_cast<double>(max_code));
    sum += std::pow(std::abs(static_cast<double>(value) - scale * (q - zero)), 2.4);
  }
  return sum;
}

TEST(UniformGrid, ClipSearchFindsTheBestOfAllEightyShrinks) {
  Rng rng(4);
  for (const int bits : {2, 3, 4}) {
    for (const int n : {1, 31, 64, 130}) {
      std::vector<float> w(static_cast<size_t>(n));
      for (float& value : w) value = static_cast<float>(rng.gaussian() * 0.05);
      const int max_code = (1 << bits) - 1;
      const double low = std::min(0.0f, *std::min_element(w.begin(), w.end()));
      const double high = std::max(0.0f, *std::max_element(w.begin(), w.end()));
      double best = HUGE_VAL;
      for (int i = 0; i < 80; ++i) {
        const double p = 1.0 - i / 100.0;
        const double scale =
            static_cast<double>(to_float(to_half(static_cast<float>(p * (high - low) / max_code))));
        best = std::min(best, power_error(w, scale, std::nearbyint(-p * low / scale), max_code));
      }
      const UniformParams fit = fit_uniform(kSolverScalar, w.data(), n, bits, true);
      const double found =
          power_error(w, static_cast<double>(fit.scale), static_cast<double>(fit.zero), max_code);
      EXPECT_LE(found, best * 1.001 + 1e-12) << bits << " bits, " << n;
    }
  }
}

TEST(UniformGrid, WithoutClipSearchTheRangeIsCoveredAndZeroIsALevel) {
  const std::vector<float> w{-0.3f, 0.1f, 0.9f, 0.0f};
  const UniformParams fit = fit_uniform(kSolverScalar, w.data(), 4, 2, false);
  EXPECT_NEAR(fit.scale, 0.4f, 1e-3f);
  EXPECT_EQ(fit.zero, 1.0f);
}

TEST(UniformGrid, ParametersSurviveFp16AndDegenerateGroupsStayFinite) {
  for (const std::vector<float>& w : {std::vector<float>(64, 0.0f), std::vector<float>(64, 1e-12f),
                                      std::vector<float>(64, 3e5f)}) {
    const UniformParams fit = fit_uniform(kSolverScalar, w.data(), 64, 2, true);
    EXPECT_GT(fit.scale, 0.0f);
    EXPECT_EQ(fit.scale, to_float(to_half(fit.scale)));
    EXPECT_GE(fit.zero, 0.0f);
    EXPECT_LE(fit.zero, 3.0f);
  }
}

}  // namespace
}  // namespace d2q
