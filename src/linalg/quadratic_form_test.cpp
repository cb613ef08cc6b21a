#include "linalg/quadratic_form.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace d2q {
namespace {

TEST(QuadraticForm, EqualsItsDefinitionOnAnyNumberOfThreads) {
  Rng rng(3);
  const int64_t rows = 131;
  const int64_t n = 37;
  Matrix<float> left(rows, n);
  Matrix<float> right(rows, n);
  Matrix<float> m(n, n);
  for (Matrix<float>* matrix : {&left, &right, &m}) {
    for (float& value : matrix->span()) value = static_cast<float>(rng.gaussian());
  }
  double expected = 0.0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t a = 0; a < n; ++a) {
      for (int64_t b = 0; b < n; ++b) {
        expected += static_cast<double>(left(i, b)) * static_cast<double>(right(i, a)) *
                    static_cast<double>(m(a, b));
      }
    }
  }
  ThreadPool one(1);
  ThreadPool two(2);
  // 180,000 products of size ~1 with f32 rounding of the 37-term inner sums: error far below 0.1.
  EXPECT_NEAR(quadratic_form(left, m, right, one), expected, 0.1);
  EXPECT_EQ(quadratic_form(left, m, right, one), quadratic_form(left, m, right, two));
}

}  // namespace
}  // namespace d2q
