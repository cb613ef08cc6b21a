#include <gtest/gtest.h>

#include "kernels/cpu/test_support.h"

namespace d2q {
namespace {

using test::at;
using test::random_tensor;

struct Shape {
  int64_t tokens, in, out;
};

// Around the switch from dot products to tiles, tile edges of 256 x 512, and single columns.
const Shape kShapes[] = {{1, 33, 65},  {4, 64, 70},    {5, 1, 1},     {5, 100, 513},
                         {7, 513, 17}, {257, 40, 520}, {33, 128, 64}, {600, 17, 31}};

void check_linear(Device& device, const Shape& s, DType x_type, DType w_type, bool biased) {
  const Tensor x = random_tensor(device, s.tokens, s.in, x_type, 1);
  const Tensor w = random_tensor(device, s.out, s.in, w_type, 2);
  const Tensor bias = biased ? random_tensor(device, 1, s.out, DType::kF32, 3) : Tensor();
  const Tensor y = device.allocate(s.tokens, s.out, DType::kF32);
  device.linear(x, w, bias, y);
  for (int64_t t = 0; t < s.tokens; ++t) {
    for (int64_t o = 0; o < s.out; ++o) {
      double sum = biased ? at(bias, 0, o) : 0.0, magnitude = std::fabs(sum);
      for (int64_t i = 0; i < s.in; ++i) {
        const double input = w_type == DType::kBF16 ? test::bf16_rounded(at(x, t, i)) : at(x, t, i);
        sum += input * at(w, o, i);
        magnitude += std::fabs(input * at(w, o, i));
      }
      // in products and in + 1 sums, each rounded once at most.
      const double tolerance = 2.0 * test::kF32Unit * static_cast<double>(s.in + 2) * magnitude;
      ASSERT_NEAR(at(y, t, o), sum, tolerance)
          << device.name() << " " << s.tokens << "x" << s.in << "x" << s.out;
    }
  }
}

TEST(Linear, equals_sums_in_double) {
  test::on_every_isa([](Device& device) {
    for (const Shape& shape : kShapes) {
      for (const bool biased : {false, true}) {
        check_linear(device, shape, DType::kF32, DType::kF32, biased);
        check_linear(device, shape, DType::kF32, DType::kBF16, biased);
        check_linear(device, shape, DType::kBF16, DType::kBF16, biased);
      }
    }
  });
}

TEST(Linear, does_not_depend_on_the_number_of_threads) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    EXPECT_TRUE(test::same_on_any_thread_count([&](Device& device) {
      const Tensor y = device.allocate(700, 600, DType::kF32);
      device.linear(random_tensor(device, 700, 192, type, 1),
                    random_tensor(device, 600, 192, type, 2), Tensor(), y);
      return y;
    }));
  }
}

TEST(Linear, refuses_mismatched_shapes) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const Tensor x = device->allocate(2, 3, DType::kF32), w = device->allocate(4, 5, DType::kF32);
  EXPECT_THROW(device->linear(x, w, Tensor(), device->allocate(2, 4, DType::kF32)), InternalError);
}

}  // namespace
}  // namespace d2q
