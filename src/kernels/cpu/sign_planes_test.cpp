#include "kernels/cpu/sign_planes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/half.h"
#include "base/rng.h"

namespace d2q {
namespace {

/// METHOD.md §5.2 word for word in f64, with dense sign matrices and Cramer's rule for two planes.
struct LiteralFit {
  std::vector<double> c, r0, r1;
};

LiteralFit literal_two_planes(const std::vector<double>& x, size_t rows, size_t cols,
                              int iterations) {
  LiteralFit fit{std::vector<double>(cols, 0.0), std::vector<double>(rows),
                 std::vector<double>(rows)};
  std::vector<double> b0(rows * cols), b1(rows * cols);
  for (size_t j = 0; j < cols; ++j) {
    for (size_t i = 0; i < rows; ++i)
      fit.c[j] += std::abs(x[i * cols + j]) / static_cast<double>(rows);
  }
  const auto sign = [](double v) { return v >= 0.0 ? 1.0 : -1.0; };
  for (size_t i = 0; i < rows; ++i) {
    double num = 0.0, den = 0.0;
    for (size_t j = 0; j < cols; ++j) {
      b0[i * cols + j] = sign(x[i * cols + j]);
      num += x[i * cols + j] * fit.c[j] * b0[i * cols + j];
      den += fit.c[j] * fit.c[j];
    }
    fit.r0[i] = num / den;
    num = 0.0;
    for (size_t j = 0; j < cols; ++j) {
      const double residual = x[i * cols + j] - fit.c[j] * fit.r0[i] * b0[i * cols + j];
      b1[i * cols + j] = sign(residual);
      num += residual * fit.c[j] * b1[i * cols + j];
    }
    fit.r1[i] = num / den;
  }
  for (int iteration = 0; iteration < iterations; ++iteration) {
    for (size_t i = 0; i < rows; ++i) {
      double a00 = 0.0, a01 = 0.0, y0 = 0.0, y1 = 0.0;
      for (size_t j = 0; j < cols; ++j) {
        const size_t k = i * cols + j;
        a00 += fit.c[j] * fit.c[j];
        a01 += fit.c[j] * fit.c[j] * b0[k] * b1[k];
        y0 += x[k] * fit.c[j] * b0[k];
        y1 += x[k] * fit.c[j] * b1[k];
      }
      const double det = a00 * a00 - a01 * a01;
      fit.r0[i] = (y0 * a00 - y1 * a01) / det;
      fit.r1[i] = (y1 * a00 - y0 * a01) / det;
      for (auto [r, b] : {std::pair{&fit.r0[i], &b0}, std::pair{&fit.r1[i], &b1}}) {
        if (*r >= 0.0) continue;
        *r = -*r;
        for (size_t j = 0; j < cols; ++j) (*b)[i * cols + j] *= -1.0;
      }
    }
    for (size_t j = 0; j < cols; ++j) {
      double num = 0.0, den = 0.0;
      for (size_t i = 0; i < rows; ++i) {
        const double s = fit.r0[i] * b0[i * cols + j] + fit.r1[i] * b1[i * cols + j];
        num += x[i * cols + j] * s;
        den += s * s;
      }
      fit.c[j] = std::abs(num / den);
    }
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < cols; ++j) {
        double best = HUGE_VAL;
        for (const double s0 : {-1.0, 1.0}) {
          for (const double s1 : {-1.0, 1.0}) {
            const double d =
                std::abs(x[i * cols + j] - fit.c[j] * (s0 * fit.r0[i] + s1 * fit.r1[i]));
            if (d < best) {
              best = d;
              b0[i * cols + j] = s0;
              b1[i * cols + j] = s1;
            }
          }
        }
      }
    }
  }
  return fit;
}

double error_of(const std::vector<float>& x, int64_t rows, int64_t cols, int planes,
                const std::vector<float>& r, const std::vector<float>& c) {
  double sum = 0.0;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      double best = HUGE_VAL;
      for (int code = 0; code < 1 << planes; ++code) {
        double level = 0.0;
        for (int p = 0; p < planes; ++p) {
          const double r_p = static_cast<double>(r[static_cast<size_t>(i * planes + p)]);
          level += (code >> p & 1) != 0 ? r_p : -r_p;
        }
        const double w = static_cast<double>(c[static_cast<size_t>(j)]) * level;
        best =
            std::min(best, std::abs(static_cast<double>(x[static_cast<size_t>(i * cols + j)]) - w));
      }
      sum += best * best;
    }
  }
  return sum;
}

std::vector<float> gaussian(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) value = static_cast<float>(rng.gaussian() * 0.02);
  return x;
}

TEST(SignPlanes, TwoPlanesEqualTheLiteralAlternation) {
  ThreadPool pool(2);
  const int64_t rows = 70;
  const int64_t cols = 48;
  const std::vector<float> x = gaussian(rows * cols, 1);
  std::vector<float> r(static_cast<size_t>(rows * 2));
  std::vector<float> c(static_cast<size_t>(cols));
  fit_sign_planes(kSolverScalar, {x.data(), rows, cols, cols}, 2, 3, true, r, c, pool);
  const LiteralFit literal = literal_two_planes({x.begin(), x.end()}, static_cast<size_t>(rows),
                                                static_cast<size_t>(cols), 3);
  // Products c·r are gauge-free; r is stored in fp16 (2^-11), and a code at a tie may fall either
  // way.
  int64_t far = 0;
  for (size_t i = 0; i < static_cast<size_t>(rows); ++i) {
    const double ours = static_cast<double>(c[0]) * static_cast<double>(r[i * 2]);
    const double theirs = literal.c[0] * literal.r0[i];
    if (std::abs(ours - theirs) > 2e-3 * std::abs(theirs)) ++far;
  }
  EXPECT_LE(far, 1);
}

TEST(SignPlanes, MoreRoundsNeverFitWorseAndColumnScalesHelpScaledColumns) {
  ThreadPool pool(2);
  const int64_t rows = 96;
  const int64_t cols = 64;
  for (const int planes : {2, 3}) {
    std::vector<float> x = gaussian(rows * cols, 7);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j)
        x[static_cast<size_t>(i * cols + j)] *= 0.3f + 0.05f * static_cast<float>(j);
    }
    std::vector<float> r(static_cast<size_t>(rows * planes));
    std::vector<float> c(static_cast<size_t>(cols));
    double last = HUGE_VAL;
    for (const int iterations : {0, 1, 3, 15}) {
      fit_sign_planes(kSolverScalar, {x.data(), rows, cols, cols}, planes, iterations, true, r, c,
                      pool);
      const double error = error_of(x, rows, cols, planes, r, c);
      EXPECT_LE(error, last * 1.002) << planes << " planes, " << iterations << " rounds";  // fp16 r
      last = error;
    }
    fit_sign_planes(kSolverScalar, {x.data(), rows, cols, cols}, planes, 15, false, r, c, pool);
    for (const float value : c) EXPECT_EQ(value, 1.0f);
    EXPECT_GT(error_of(x, rows, cols, planes, r, c), 1.3 * last);
  }
}

TEST(SignPlanes, ScalesAreFp16NonNegativeAndTheColumnScaleHasGeometricMeanOne) {
  ThreadPool pool(1);
  const std::vector<float> x = gaussian(20 * 33, 3);
  std::vector<float> r(40);
  std::vector<float> c(33);
  fit_sign_planes(kSolverScalar, {x.data(), 20, 33, 33}, 2, 15, true, r, c, pool);
  double log_sum = 0.0;
  for (const float value : c) log_sum += std::log(static_cast<double>(value));
  EXPECT_NEAR(log_sum, 0.0, 1e-5);
  for (const float value : r) {
    EXPECT_GE(value, 0.0f);
    EXPECT_EQ(value, to_float(to_half(value)));
  }
}

TEST(SignPlanes, ZeroMatricesAndZeroColumnsStayFinite) {
  ThreadPool pool(1);
  std::vector<float> r(8);
  std::vector<float> c(16);
  const std::vector<float> zero(64, 0.0f);
  fit_sign_planes(kSolverScalar, {zero.data(), 4, 16, 16}, 2, 15, true, r, c, pool);
  for (const float value : r) EXPECT_EQ(value, 0.0f);
  for (const float value : c) EXPECT_TRUE(std::isfinite(value) && value > 0.0f);
  std::vector<float> x = gaussian(64, 9);
  for (int64_t i = 0; i < 4; ++i) x[static_cast<size_t>(i * 16 + 5)] = 0.0f;
  fit_sign_planes(kSolverScalar, {x.data(), 4, 16, 16}, 2, 15, true, r, c, pool);
  for (const float value : c) EXPECT_TRUE(std::isfinite(value) && value > 0.0f);
}

}  // namespace
}  // namespace d2q
