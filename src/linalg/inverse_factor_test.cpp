#include "linalg/inverse_factor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace d2q {
namespace {

Matrix<double> random_gram(int64_t n, Rng& rng) {
  Matrix<double> x(n, 2 * n);
  for (double& value : x.span()) value = rng.gaussian();
  Matrix<double> gram(n, n, true);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < 2 * n; ++k) gram(i, j) += x(i, k) * x(j, k);
    }
  }
  return gram;
}

TEST(InverseFactor, UpperFactorTimesItsTransposeInvertsTheDampedHessian) {
  Rng rng(1);
  for (const int64_t n : {1, 2, 17, 130}) {
    const Matrix<double> hessian = random_gram(n, rng);
    const double damping = 0.01;
    const auto factor = inverse_factor(hessian, damping);
    ASSERT_TRUE(factor.has_value());
    double mean = 0.0;
    for (int64_t i = 0; i < n; ++i) mean += hessian(i, i) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) EXPECT_EQ((*factor)(i, j), 0.0);
    }
    // (Uᵀ U)·Hd = I
    Matrix<double> inverse(n, n, true);
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) inverse(i, j) += (*factor)(k, i) * (*factor)(k, j);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k) {
          sum += inverse(i, k) * (hessian(k, j) + (k == j ? damping * mean : 0.0));
        }
        EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-9) << n << " " << i << " " << j;
      }
    }
  }
}

TEST(InverseFactor, RefusesAMatrixThatIsNotPositiveDefinite) {
  Matrix<double> bad(2, 2);
  bad(0, 0) = bad(1, 1) = 1.0;
  bad(0, 1) = bad(1, 0) = 2.0;
  EXPECT_FALSE(inverse_factor(bad, 0.01).has_value());
  bad(0, 0) = std::nan("");
  EXPECT_FALSE(inverse_factor(bad, 0.01).has_value());
}

TEST(InverseFactor, AsymmetryMatrixEqualsItsFormula) {
  Rng rng(2);
  ThreadPool pool(2);
  for (const int64_t n : {1, 5, 128, 131, 260}) {
    const auto factor = inverse_factor(random_gram(n, rng), 0.01);
    Matrix<double> deviation(n, n);
    for (double& value : deviation.span()) value = rng.gaussian();
    const Matrix<double> p = asymmetry_matrix(deviation, *factor, 0.25, pool);
    Matrix<double> middle(n, n, true);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) {
        for (int64_t k = 0; k < n; ++k) middle(i, j) += deviation(i, k) * (*factor)(j, k);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k) sum += middle(i, k) * (*factor)(k, j);
        const double expected = j > i ? 0.25 * sum : 0.0;
        EXPECT_NEAR(p(i, j), expected, 1e-9 * (1.0 + std::abs(expected)));
      }
    }
  }
}

TEST(InverseFactor, TargetMapTimesTheDampedHessianIsTheDeviation) {
  Rng rng(5);
  ThreadPool pool(2);
  const int64_t n = 140;
  const Matrix<double> hessian = random_gram(n, rng);
  const auto factor = inverse_factor(hessian, 0.01);
  Matrix<double> deviation(n, n);
  for (double& value : deviation.span()) value = rng.gaussian();
  const Matrix<double> map = asymmetric_target_map(deviation, *factor, 0.25, pool);
  double mean = 0.0;
  for (int64_t i = 0; i < n; ++i) mean += hessian(i, i) / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < n; ++k)
        sum += map(i, k) * (hessian(k, j) + (k == j ? 0.01 * mean : 0.0));
      EXPECT_NEAR(sum, 0.25 * deviation(i, j), 1e-9);
    }
  }
}

}  // namespace
}  // namespace d2q
