#include <gtest/gtest.h>

#include <limits>
#include <numbers>

#include "kernels/cpu/test_support.h"

namespace d2q {
namespace {

using test::at;
using test::random_tensor;

// Around every vector width, and several rows.
constexpr int64_t kWidths[] = {1, 7, 8, 15, 16, 17, 33, 64, 100, 576};

double tolerance_of(const Tensor& y, double f32_error, double value) {
  return f32_error +
         (y.dtype() == DType::kBF16 ? test::kBf16Unit * (std::fabs(value) + f32_error) : 0.0);
}

TEST(Convert, narrow_values_are_the_nearest_and_specials_survive) {
  test::on_every_isa([](Device& device) {
    Rng rng(1);
    const int64_t n = 5003;
    const Tensor x = device.allocate(1, n, DType::kF32);
    for (int64_t i = 0; i < n; ++i) {
      x.data<float>()[i] = std::bit_cast<float>(static_cast<uint32_t>(rng.next_u64()));
    }
    const float specials[] = {0.0f,   -0.0f,    INFINITY, -INFINITY, NAN,
                              1e-41f, 65520.0f, 6e-8f,    3e38f};
    std::copy(std::begin(specials), std::end(specials), x.data<float>());
    const Tensor bf16 = device.allocate(1, n, DType::kBF16),
                 f16 = device.allocate(1, n, DType::kF16);
    const Tensor wide = device.allocate(1, n, DType::kF32),
                 f64 = device.allocate(1, n, DType::kF64);
    device.convert(x, bf16);
    device.convert(x, f16);
    device.convert(x, f64);
    for (int64_t i = 0; i < n; ++i) {
      const float value = x.data<float>()[i];
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(at(bf16, 0, i)) && std::isnan(at(f16, 0, i)) &&
                    std::isnan(at(f64, 0, i)));
        continue;
      }
      ASSERT_EQ(bf16.data<BFloat16>()[i], to_bfloat16(value)) << device.name() << " " << value;
      ASSERT_EQ(f16.data<Half>()[i], to_half(value)) << device.name() << " " << value;
      ASSERT_EQ(at(f64, 0, i), static_cast<double>(value));
    }
    device.convert(f16, wide);
    device.convert(f16, bf16);
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(at(f16, 0, i))) continue;
      ASSERT_EQ(at(wide, 0, i), at(f16, 0, i));
      ASSERT_EQ(bf16.data<BFloat16>()[i], to_bfloat16(static_cast<float>(at(f16, 0, i))));
    }
  });
}

TEST(Norm, equals_its_formula_in_double) {
  test::on_every_isa([](Device& device) {
    for (const int64_t n : kWidths) {
      for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
        for (const bool shifted : {false, true}) {
          for (const DType y_type : {DType::kF32, DType::kBF16}) {
            const int64_t rows = 5;
            const Tensor x = random_tensor(device, rows, n, DType::kF32, 1);
            NormParams params{kind, random_tensor(device, 1, n, DType::kF32, 2), Tensor(), 1e-3f};
            if (shifted) params.shift = random_tensor(device, 1, n, DType::kF32, 3);
            const Tensor y = device.allocate(rows, n, y_type);
            device.norm(x, params, y);
            for (int64_t row = 0; row < rows; ++row) {
              double mean = 0.0, square = 0.0;
              for (int64_t i = 0; i < n; ++i) mean += at(x, row, i) / static_cast<double>(n);
              if (kind == NormKind::kRms) mean = 0.0;
              for (int64_t i = 0; i < n; ++i)
                square += std::pow(at(x, row, i) - mean, 2) / static_cast<double>(n);
              const double factor = 1.0 / std::sqrt(square + static_cast<double>(1e-3f));
              for (int64_t i = 0; i < n; ++i) {
                const double scaled = (at(x, row, i) - mean) * factor * at(params.gain, 0, i);
                const double expected = scaled + (shifted ? at(params.shift, 0, i) : 0.0);
                // The sum over n in f32, a root and a few products; the mean is off by n roundings
                // of values near 1, scaled by factor <= 32 and |gain| <= 5.
                const double f32_error = test::kF32Unit * static_cast<double>(n + 16) *
                                         (std::fabs(scaled) + std::fabs(expected) + factor);
                ASSERT_NEAR(at(y, row, i), expected, tolerance_of(y, f32_error * 5.0, expected))
                    << device.name() << " " << n;
              }
            }
          }
        }
      }
    }
  });
}

TEST(Norm, works_in_place) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const Tensor x = random_tensor(*device, 3, 40, DType::kF32, 1),
               y = device->allocate(3, 40, DType::kF32);
  const NormParams params{NormKind::kLayer, random_tensor(*device, 1, 40, DType::kF32, 2), Tensor(),
                          1e-5f};
  device->norm(x, params, y);
  device->norm(x, params, x);
  EXPECT_EQ(test::bytes_of(x), test::bytes_of(y));
}

TEST(Rope, rotates_the_halves_of_the_first_columns_of_each_head) {
  test::on_every_isa([](Device& device) {
    for (const int64_t half : {1, 5, 8, 16, 20, 32}) {
      const int64_t n_heads = 3, head_dim = 2 * half + (half % 2 == 0 ? 0 : 4), rows = 4;
      const Tensor x = random_tensor(device, rows, n_heads * head_dim, DType::kF32, 1);
      const Tensor before = device.allocate(rows, x.cols(), DType::kF32);
      device.convert(x, before);
      const Tensor cos = random_tensor(device, 9, half, DType::kF32, 2);
      const Tensor sin = random_tensor(device, 9, half, DType::kF32, 3);
      const int32_t positions[] = {8, 0, 3, 3};
      device.rope(x, n_heads, positions, cos, sin);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t column = 0; column < x.cols(); ++column) {
          const int64_t i = column % head_dim;
          double expected = at(before, row, column);
          if (i < 2 * half) {
            const double c = at(cos, positions[row], i % half),
                         s = at(sin, positions[row], i % half);
            expected = i < half ? expected * c - at(before, row, column + half) * s
                                : expected * c + at(before, row, column - half) * s;
          }
          // Three roundings of terms of at most 25 (two Gaussians within 5 deviations).
          ASSERT_NEAR(at(x, row, column), expected, 3.0 * test::kF32Unit * 25.0) << device.name();
        }
      }
    }
  });
}

TEST(Activation, equals_its_formula_in_double) {
  const auto formula = [](Activation act, double x) {
    const double tanh_argument = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
    switch (act) {
      case Activation::kSilu:
        return x / (1.0 + std::exp(-x));
      case Activation::kGelu:
        return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
      case Activation::kGeluTanh:
        return 0.5 * x * (1.0 + std::tanh(tanh_argument));
      case Activation::kRelu:
        break;
    }
    return std::max(x, 0.0);
  };
  test::on_every_isa([&](Device& device) {
    for (const Activation act :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
      for (const int64_t n : kWidths) {
        for (const DType y_type : {DType::kF32, DType::kBF16}) {
          const Tensor gate = random_tensor(device, 3, n, DType::kF32, 1, 4.0);
          const Tensor up = random_tensor(device, 3, n, DType::kF32, 2);
          gate.data<float>()[0] = -100.0f;
          gate.data<float>()[n] = 100.0f;
          const Tensor gated = device.allocate(3, n, y_type), plain = device.allocate(3, n, y_type);
          device.gated_activation(act, gate, up, gated);
          device.activation(act, gate, plain);
          for (int64_t row = 0; row < 3; ++row) {
            for (int64_t i = 0; i < n; ++i) {
              const double x = at(gate, row, i), expected = formula(act, x);
              // A few roundings of x itself: 1 + tanh cancels for negative x.
              const double error = 16.0 * test::kF32Unit * std::fabs(x);
              ASSERT_NEAR(at(plain, row, i), expected, tolerance_of(plain, error, expected))
                  << device.name() << " " << x;
              const double u = at(up, row, i);
              ASSERT_NEAR(at(gated, row, i), expected * u,
                          tolerance_of(gated, error * (std::fabs(u) + 1.0), expected * u));
            }
          }
        }
      }
    }
  });
}

TEST(Add, adds_f32_and_bf16) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const Tensor x = random_tensor(device, 3, 37, DType::kF32, 1),
                   y = random_tensor(device, 3, 37, type, 2);
      const float first = x.data<float>()[40];
      device.add(x, y);
      EXPECT_EQ(x.data<float>()[40], first + static_cast<float>(at(y, 1, 3)));
    }
  });
}

TEST(Embed, copies_rows_of_every_storage_type) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF16}) {
      const Tensor table = random_tensor(device, 10, 33, type, 1),
                   y = device.allocate(3, 33, DType::kF32);
      device.embed(std::vector<int32_t>{9, 0, 9}, table, y);
      for (int64_t i = 0; i < 33; ++i) {
        EXPECT_EQ(at(y, 0, i), at(table, 9, i));
        EXPECT_EQ(at(y, 1, i), at(table, 0, i));
        EXPECT_EQ(at(y, 2, i), at(table, 9, i));
      }
      EXPECT_THROW(device.embed(std::vector<int32_t>{10, 0, 0}, table, y), InternalError);
    }
  });
}

TEST(CrossEntropy, equals_log_softmax_in_double) {
  test::on_every_isa([](Device& device) {
    for (const int64_t n : {2, 17, 5000}) {
      const Tensor logits = random_tensor(device, 4, n, DType::kF32, 1, 20.0);
      const std::vector<int32_t> targets = {0, 1, static_cast<int32_t>(n - 1),
                                            static_cast<int32_t>(n / 2)};
      std::vector<double> losses(4);
      device.cross_entropy(logits, targets, losses);
      for (int64_t row = 0; row < 4; ++row) {
        double sum = 0.0;
        const double target = at(logits, row, targets[static_cast<size_t>(row)]);
        for (int64_t i = 0; i < n; ++i) sum += std::exp(at(logits, row, i) - target);
        // exp within 4 roundings of an argument of up to 160, and 1024 / 8 sums in f32.
        ASSERT_NEAR(losses[static_cast<size_t>(row)], std::log(sum), 2.0 * test::kF32Unit * 300.0)
            << device.name();
      }
    }
  });
}

TEST(CompareLogits, equals_the_formulas_in_double) {
  test::on_every_isa([](Device& device) {
    for (const int64_t n : {2, 33, 5000}) {
      const Tensor reference = random_tensor(device, 3, n, DType::kF32, 5, 4.0);
      const Tensor logits = random_tensor(device, 3, n, DType::kF32, 6, 4.0);
      std::copy_n(reference.data<float>() + n, n, logits.data<float>() + n);  // row 1: the same
      const std::vector<int32_t> targets = {0, static_cast<int32_t>(n - 1), 1};
      std::vector<LogitComparison> found(3);
      device.compare_logits(reference, logits, targets, found);
      for (int64_t row = 0; row < 3; ++row) {
        double reference_sum = 0.0, sum = 0.0, divergence = 0.0;
        int64_t reference_top = 0, top = 0;
        for (int64_t i = 0; i < n; ++i) {
          reference_sum += std::exp(at(reference, row, i));
          sum += std::exp(at(logits, row, i));
          if (at(reference, row, i) > at(reference, row, reference_top)) reference_top = i;
          if (at(logits, row, i) > at(logits, row, top)) top = i;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double log_p = at(reference, row, i) - std::log(reference_sum);
          divergence += std::exp(log_p) * (log_p - at(logits, row, i) + std::log(sum));
        }
        const LogitComparison& result = found[static_cast<size_t>(row)];
        const int32_t target = targets[static_cast<size_t>(row)];
        // As for cross_entropy; the divergence weighs differences of up to about 30 by
        // probabilities of that error.
        const double tolerance = 2.0 * test::kF32Unit * 300.0;
        ASSERT_NEAR(result.loss, std::log(sum) - at(logits, row, target), tolerance);
        ASSERT_NEAR(result.reference_loss, std::log(reference_sum) - at(reference, row, target),
                    tolerance);
        ASSERT_NEAR(result.divergence, divergence, 30.0 * tolerance) << device.name() << " " << n;
        ASSERT_EQ(result.same_top, reference_top == top);
      }
      EXPECT_TRUE(found[1].same_top);
      EXPECT_NEAR(found[1].divergence, 0.0, 1e-12);
    }
  });
}

TEST(Device, refuses_an_unknown_isa) {
  ThreadPool pool(1);
  EXPECT_THROW(make_cpu_device(pool, "sse9"), Error);
}

TEST(Device, cuda_is_refused_with_advice_where_it_is_missing) {
  try {
    make_cuda_device();
    GTEST_SKIP() << "a GPU is here";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("--device cpu"), std::string::npos);
  }
}

}  // namespace
}  // namespace d2q
