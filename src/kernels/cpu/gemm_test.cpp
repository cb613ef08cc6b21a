#include "kernels/cpu/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"

namespace d2q {
namespace {

struct Case {
  int64_t m, n, k, padding;
};

std::vector<float> random_values(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(rng.gaussian());
  return values;
}

/// Runs `gemm` on one shape in all four transpositions, beta 0 and 1, against sums in double.
template <typename T, typename Gemm>
void check_gemm(const Case& shape, Gemm&& gemm) {
  const auto [m, n, k, padding] = shape;
  for (int variant = 0; variant < 8; ++variant) {
    const bool ta = (variant & 1) != 0, tb = (variant & 2) != 0, add = (variant & 4) != 0;
    const int64_t lda = (ta ? m : k) + padding, ldb = (tb ? k : n) + padding, ldc = n + padding;
    std::vector<float> a = random_values((ta ? k : m) * lda, 1),
                       b = random_values((tb ? n : k) * ldb, 2);
    std::vector<float> c = random_values(m * ldc, 3);
    const std::vector<float> before = c;
    std::vector<T> at, bt;
    for (std::vector<float>* source : {&a, &b}) {
      for (float& value : *source) {
        T stored{};
        if constexpr (std::is_same_v<T, float>) {
          stored = value;
        } else {
          stored = to_bfloat16(value);
          value = to_float(stored);
        }
        (source == &a ? at : bt).push_back(stored);
      }
    }
    gemm(ta, tb, m, n, k, at.data(), lda, bt.data(), ldb, add ? 1.0f : 0.0f, c.data(), ldc);
    // k products and k sums, each off by at most one f32 rounding of the running magnitude.
    const double unit = std::numeric_limits<float>::epsilon();
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < ldc; ++j) {
        double sum = 0.0, magnitude = 0.0;
        if (j < n) {
          for (int64_t p = 0; p < k; ++p) {
            const double product =
                static_cast<double>(a[static_cast<size_t>(ta ? p * lda + i : i * lda + p)]) *
                b[static_cast<size_t>(tb ? j * ldb + p : p * ldb + j)];
            sum += product;
            magnitude += std::fabs(product);
          }
        }
        if (add || j >= n) sum += before[static_cast<size_t>(i * ldc + j)];
        magnitude += std::fabs(sum);
        const double tolerance = j < n ? unit * static_cast<double>(k + 1) * magnitude : 0.0;
        ASSERT_NEAR(c[static_cast<size_t>(i * ldc + j)], sum, tolerance)
            << m << "x" << n << "x" << k << " variant " << variant << " at " << i << "," << j;
      }
    }
  }
}

const Case kCases[] = {{1, 1, 1, 0},    {1, 17, 33, 3},   {7, 5, 1, 0},
                       {16, 16, 32, 0}, {31, 65, 129, 1}, {2, 64, 513, 0},
                       {65, 1, 64, 2},  {3, 0, 4, 0},     {4, 3, 0, 0}};

TEST(Gemm, f32_equals_sums_in_double) {
  for (const Case& shape : kCases) check_gemm<float>(shape, gemm_f32);
}

TEST(Gemm, bf16_equals_sums_in_double) {
  for (const Case& shape : kCases) check_gemm<BFloat16>(shape, gemm_bf16);
}

TEST(Gemm, widened_bf16_equals_sums_in_double) {
  for (const Case& shape : kCases) check_gemm<BFloat16>(shape, gemm_bf16_widened);
}

TEST(Gemm, survives_more_shapes_than_the_cache_holds) {
  for (int64_t n = 1; n < 300; ++n) {
    std::vector<BFloat16> a(8, to_bfloat16(1.0f)), b(static_cast<size_t>(8 * n), to_bfloat16(2.0f));
    std::vector<float> c(static_cast<size_t>(n));
    gemm_bf16(false, false, 1, n, 8, a.data(), 8, b.data(), n, 0.0f, c.data(), n);
    ASSERT_EQ(c.back(), 16.0f);
  }
}

}  // namespace
}  // namespace d2q
