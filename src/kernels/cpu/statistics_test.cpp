#include <gtest/gtest.h>

#include <limits>

#include "kernels/cpu/test_support.h"

namespace d2q {
namespace {

using test::at;
using test::random_tensor;

TEST(Statistics, gram_sums_the_lower_triangle_and_mirror_completes_it) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      for (const int64_t n : {1, 31, 300}) {
        const int64_t tokens = 2 * n + 3;
        const Tensor x = random_tensor(device, tokens, n, type, 1);
        const Tensor sum = device.allocate(n, n, DType::kF32);
        device.fill_zero(sum);
        device.accumulate_gram(x, 0.5f, sum);
        device.accumulate_gram(x, 0.5f, sum);
        device.mirror_lower(sum);
        for (int64_t i = 0; i < n; i += 7) {
          for (int64_t j = 0; j < n; j += 5) {
            double expected = 0.0, magnitude = 0.0;
            for (int64_t t = 0; t < tokens; ++t) {
              expected += at(x, t, i) * at(x, t, j);
              magnitude += std::fabs(at(x, t, i) * at(x, t, j));
            }
            const double tolerance =
                2.0 * test::kF32Unit * static_cast<double>(tokens + 4) * magnitude;
            ASSERT_NEAR(at(sum, i, j), expected, tolerance) << device.name() << " " << n;
          }
        }
      }
    }
  });
}

TEST(Statistics, gram_of_many_tokens_stays_within_1e_5_of_double) {
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool);
  const int64_t n = 48, tokens = 20000;
  const Tensor x = random_tensor(*device, tokens, n, DType::kBF16, 1);
  const Tensor sum = device->allocate(n, n, DType::kF32);
  device->fill_zero(sum);
  device->accumulate_gram(x, 1.0f, sum);
  device->mirror_lower(sum);
  double error = 0.0, norm = 0.0, worst_diagonal = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double expected = 0.0;
      for (int64_t t = 0; t < tokens; ++t) expected += at(x, t, i) * at(x, t, j);
      const double difference = at(sum, i, j) - expected;
      error += difference * difference;
      norm += expected * expected;
      if (i == j) worst_diagonal = std::max(worst_diagonal, std::fabs(difference) / expected);
    }
  }
  EXPECT_LE(std::sqrt(error / norm), 1e-5);
  EXPECT_LE(worst_diagonal, 1e-5);
}

TEST(Statistics, cross_sums_products_of_two_streams) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const int64_t n = 270, tokens = 50;
      const Tensor a = random_tensor(device, tokens, n, type, 1),
                   b = random_tensor(device, tokens, n, type, 2);
      const Tensor sum = random_tensor(device, n, n, DType::kF32, 3);
      const Tensor before = device.allocate(n, n, DType::kF32);
      device.convert(sum, before);
      device.accumulate_cross(a, b, 2.0f, sum);
      for (int64_t i = 0; i < n; i += 3) {
        for (int64_t j = 0; j < n; j += 11) {
          double expected = at(before, i, j), magnitude = std::fabs(expected);
          for (int64_t t = 0; t < tokens; ++t) {
            expected += 2.0 * at(a, t, i) * at(b, t, j);
            magnitude += 2.0 * std::fabs(at(a, t, i) * at(b, t, j));
          }
          const double tolerance =
              2.0 * test::kF32Unit * static_cast<double>(tokens + 3) * magnitude;
          ASSERT_NEAR(at(sum, i, j), expected, tolerance);
        }
      }
    }
  });
}

TEST(Statistics, do_not_depend_on_the_number_of_threads) {
  EXPECT_TRUE(test::same_on_any_thread_count([](Device& device) {
    const Tensor x = random_tensor(device, 3000, 600, DType::kBF16, 1);
    const Tensor sum = device.allocate(600, 600, DType::kF32);
    device.fill_zero(sum);
    device.accumulate_gram(x, 1.0f, sum);
    device.accumulate_cross(x, x, 1.0f, sum);
    return sum;
  }));
}

TEST(Statistics, difference_moments_are_exact_in_double) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const Tensor a = random_tensor(device, 100, 130, type, 1),
                   b = random_tensor(device, 100, 130, DType::kF32, 2);
      const Tensor moments = device.allocate(2, 130, DType::kF64);
      device.fill_zero(moments);
      device.accumulate_difference(a, b, moments);
      for (int64_t j = 0; j < 130; ++j) {
        double sum = 0.0, squares = 0.0;
        for (int64_t t = 0; t < 100; ++t) {
          const double difference = at(a, t, j) - at(b, t, j);
          sum += difference;
          squares += difference * difference;
        }
        ASSERT_DOUBLE_EQ(at(moments, 0, j), sum);
        ASSERT_DOUBLE_EQ(at(moments, 1, j), squares);
      }
    }
  });
}

TEST(Statistics, first_non_finite_row_finds_nan_and_infinity) {
  test::on_every_isa([](Device& device) {
    const Tensor x = random_tensor(device, 200, 33, DType::kF32, 1);
    EXPECT_EQ(device.first_non_finite_row(x), -1);
    x.data<float>()[150 * 33 + 32] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(device.first_non_finite_row(x), 150);
    x.data<float>()[70 * 33] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(device.first_non_finite_row(x), 70);
    const Tensor narrow = device.allocate(200, 33, DType::kBF16);
    device.convert(x, narrow);
    EXPECT_EQ(device.first_non_finite_row(narrow), 70);
  });
}

}  // namespace
}  // namespace d2q
