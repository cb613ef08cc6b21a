#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/cpu/test_support.h"
#include "kernels/gradient_ops.h"
namespace d2q {
namespace {

using test::at;
using test::random_tensor;

/// dL/dx_i of `loss` by central differences; the literal forwards below are smooth and of order 1,
/// so that a step of 1e-5 leaves an error below 1e-8 of them.
double finite_difference(std::vector<double>& x, size_t i, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  const double value = x[i];
  x[i] = value + kStep;
  const double above = loss();
  x[i] = value - kStep;
  const double below = loss();
  x[i] = value;
  return (above - below) / (2.0 * kStep);
}

std::vector<double> row_of(const Tensor& x, int64_t row) {
  std::vector<double> values;
  for (int64_t j = 0; j < x.cols(); ++j) values.push_back(at(x, row, j));
  return values;
}

/// An f32 tensor of NaN: whatever an operation forgets to write shows.
Tensor poisoned(Device& device, int64_t rows, int64_t cols) {
  const Tensor result = device.allocate(rows, cols, DType::kF32);
  std::fill_n(result.data<float>(), result.size(), NAN);
  return result;
}

Tensor copy_of(Device& device, const Tensor& x) {
  const Tensor result = device.allocate(x.rows(), x.cols(), x.dtype());
  device.convert(x, result);
  return result;
}

/// The two products against sums in double, for t tokens.
void check_linear(Device& device, int64_t t, int64_t out, int64_t in, DType type) {
  const bool bf16 = type == DType::kBF16;
  const Tensor x = random_tensor(device, t, in, type, 1);
  const Tensor w = random_tensor(device, out, in, type, 2);
  const Tensor d_y = random_tensor(device, t, out, DType::kF32, 3);
  const Tensor added = random_tensor(device, t, in, DType::kF32, 4);
  const Tensor d_x = poisoned(device, t, in), d_w = poisoned(device, out, in);
  const Tensor sum = copy_of(device, added);
  device.gradients().linear_input(d_y, w, d_x, false);
  device.gradients().linear_input(d_y, w, sum, true);
  device.gradients().linear_weight(d_y, x, d_w);
  const auto gradient = [&](int64_t row, int64_t col) {
    return bf16 ? test::bf16_rounded(at(d_y, row, col)) : at(d_y, row, col);
  };
  for (int64_t i = 0; i<t; i += t> 40 ? 13 : 1) {
    for (int64_t j = 0; j<in; j += in> 40 ? 17 : 1) {
      double expected = 0.0, size = 0.0;
      for (int64_t k = 0; k < out; ++k) {
        expected += gradient(i, k) * at(w, k, j);
        size += std::abs(gradient(i, k) * at(w, k, j));
      }
      const double error = static_cast<double>(out + 2) * test::kF32Unit * (size + 4.0);
      ASSERT_NEAR(at(d_x, i, j), expected, error) << device.name();
      ASSERT_NEAR(at(sum, i, j), expected + at(added, i, j), error) << device.name();
    }
  }
  for (int64_t i = 0; i<out; i += out> 40 ? 11 : 1) {
    for (int64_t j = 0; j<in; j += in> 40 ? 17 : 1) {
      double expected = 0.0, size = 0.0;
      for (int64_t k = 0; k < t; ++k) {
        expected += gradient(k, i) * at(x, k, j);
        size += std::abs(gradient(k, i) * at(x, k, j));
      }
      ASSERT_NEAR(at(d_w, i, j), expected, static_cast<double>(t) * test::kF32Unit * size)
          << device.name();
    }
  }
}

TEST(LinearGradient, equals_sums_in_double) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      check_linear(device, 1, 1, 1, type);
      check_linear(device, 3, 7, 5, type);
      check_linear(device, 17, 33, 70, type);
      check_linear(device, 270, 300, 530, type);
    }
  });
}

TEST(LinearGradient, takes_a_gradient_that_is_bf16_already) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const Tensor w = random_tensor(*device, 9, 6, DType::kBF16, 1);
  const Tensor narrow = random_tensor(*device, 5, 9, DType::kBF16, 2);
  const Tensor wide = device->allocate(5, 9, DType::kF32);
  device->convert(narrow, wide);
  const Tensor a = poisoned(*device, 5, 6), b = poisoned(*device, 5, 6);
  device->gradients().linear_input(narrow, w, a, false);
  device->gradients().linear_input(wide, w, b, false);
  EXPECT_EQ(test::bytes_of(a), test::bytes_of(b));
}

double norm_loss(NormKind kind, double epsilon, const std::vector<double>& x,
                 const std::vector<double>& gain, const std::vector<double>& shift,
                 const std::vector<double>& d_y) {
  const auto n = static_cast<double>(x.size());
  double mean = 0.0, variance = 0.0, loss = 0.0;
  if (kind == NormKind::kLayer) mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  for (const double value : x) variance += (value - mean) * (value - mean) / n;
  for (size_t i = 0; i < x.size(); ++i) {
    loss += d_y[i] * (gain[i] * (x[i] - mean) / std::sqrt(variance + epsilon) + shift[i]);
  }
  return loss;
}

void check_norm(Device& device, NormKind kind, int64_t rows, int64_t n) {
  const Tensor x = random_tensor(device, rows, n, DType::kF32, 1);
  const Tensor d_y = random_tensor(device, rows, n, DType::kF32, 2);
  const Tensor gain = random_tensor(device, 1, n, DType::kF32, 3);
  const Tensor added = random_tensor(device, rows, n, DType::kF32, 4);
  const Tensor d_x = copy_of(device, added);
  const Tensor d_gain = random_tensor(device, 1, n, DType::kF32, 5);
  const Tensor d_shift = random_tensor(device, 1, n, DType::kF32, 6);
  std::vector<double> gain_sum = row_of(d_gain, 0), shift_sum = row_of(d_shift, 0);
  const float epsilon = 1e-2f;
  device.gradients().norm(x, {kind, gain, Tensor(), epsilon}, d_y, d_x, d_gain, d_shift);
  std::vector<double> g = row_of(gain, 0), shift(static_cast<size_t>(n));
  // Each term is off by a few roundings of values below 50 and a mean over n of such products.
  const double tolerance = static_cast<double>(n + 64) * test::kF32Unit * 50.0 + 1e-7;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> values = row_of(x, row);
    const std::vector<double> gradient = row_of(d_y, row);
    const auto loss = [&] {
      return norm_loss(kind, static_cast<double>(epsilon), values, g, shift, gradient);
    };
    for (int64_t j = 0; j < n; ++j) {
      const auto i = static_cast<size_t>(j);
      gain_sum[i] += finite_difference(g, i, loss);
      shift_sum[i] += finite_difference(shift, i, loss);
      if (row > 3 && row + 1 < rows) continue;
      ASSERT_NEAR(at(d_x, row, j), at(added, row, j) + finite_difference(values, i, loss),
                  tolerance)
          << device.name() << " row " << row << " of width " << n;
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    const double many = std::sqrt(static_cast<double>(rows)) * tolerance;
    ASSERT_NEAR(at(d_gain, 0, j), gain_sum[static_cast<size_t>(j)], many) << device.name();
    ASSERT_NEAR(at(d_shift, 0, j), shift_sum[static_cast<size_t>(j)], many) << device.name();
  }
}

TEST(NormGradient, equals_finite_differences) {
  test::on_every_isa([](Device& device) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      check_norm(device, kind, 1, 1);
      check_norm(device, kind, 3, 17);
      check_norm(device, kind, 65, 33);
      check_norm(device, kind, 200, 40);
    }
  });
}

TEST(NormGradient, leaves_out_the_gradients_that_nobody_wants) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const Tensor x = random_tensor(*device, 4, 9, DType::kF32, 1);
  const Tensor d_x = copy_of(*device, x);
  device->gradients().norm(x,
                           {NormKind::kRms, random_tensor(*device, 1, 9, DType::kF32, 2), Tensor()},
                           x, d_x, Tensor(), Tensor());
  EXPECT_NE(test::bytes_of(d_x), test::bytes_of(x));
}

TEST(RopeGradient, is_the_transpose_of_the_rotation) {
  test::on_every_isa([](Device& device) {
    const int64_t rows = 7, heads = 3, head_dim = 10, half = 4;
    const Tensor x = random_tensor(device, rows, heads * head_dim, DType::kF32, 1);
    const Tensor d_y = random_tensor(device, rows, heads * head_dim, DType::kF32, 2);
    const Tensor cos = random_tensor(device, 9, half, DType::kF32, 3);
    const Tensor sin = random_tensor(device, 9, half, DType::kF32, 4);
    const std::vector<int32_t> positions = {0, 8, 3, 3, 1, 5, 7};
    const Tensor y = copy_of(device, x), d_x = copy_of(device, d_y);
    device.rope(y, heads, positions, cos, sin);
    device.gradients().rope(d_x, heads, positions, cos, sin);
    // <d_y, R x> = <Rᵀ d_y, x> for each row.
    for (int64_t row = 0; row < rows; ++row) {
      double forward = 0.0, backward = 0.0;
      for (int64_t j = 0; j < x.cols(); ++j) {
        forward += at(d_y, row, j) * at(y, row, j);
        backward += at(d_x, row, j) * at(x, row, j);
      }
      EXPECT_NEAR(forward, backward, 30.0 * 10.0 * test::kF32Unit * 4.0) << device.name();
    }
  });
}

double activate(Activation act, double x) {
  switch (act) {
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x * std::sqrt(0.5)));
    case Activation::kGeluTanh:
      return 0.5 * x *
             (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      break;
  }
  return std::max(0.0, x);
}

TEST(ActivationGradient, equals_finite_differences) {
  test::on_every_isa([](Device& device) {
    for (const Activation act :
         {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
      const int64_t rows = 5, cols = 37;
      const Tensor gate = random_tensor(device, rows, cols, DType::kF32, 1, 4.0);
      const Tensor up = random_tensor(device, rows, cols, DType::kF32, 2);
      const Tensor d_y = random_tensor(device, rows, cols, DType::kF32, 3);
      const Tensor d_gate = poisoned(device, rows, cols), d_up = poisoned(device, rows, cols);
      const Tensor d_x = poisoned(device, rows, cols);
      device.gradients().gated_activation(act, gate, up, d_y, d_gate, d_up);
      device.gradients().activation(act, gate, d_y, d_x);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
          std::vector<double> x = {at(gate, i, j)};
          const double slope = finite_difference(x, 0, [&] { return activate(act, x[0]); });
          const double gradient = at(d_y, i, j);
          // Values below 16, and a slope within 1.2, each a few roundings off.
          EXPECT_NEAR(at(d_x, i, j), gradient * slope, 1e-5) << device.name() << " x " << x[0];
          EXPECT_NEAR(at(d_gate, i, j), gradient * at(up, i, j) * slope, 1e-5 * 4.0);
          EXPECT_NEAR(at(d_up, i, j), gradient * activate(act, x[0]), 16.0 * 4.0 * 1e-6);
        }
      }
    }
  });
}

TEST(ActivationGradient, is_finite_far_from_zero) {
  test::on_every_isa([](Device& device) {
    const Tensor x = device.allocate(1, 6, DType::kF32);
    const float values[] = {-1e18f, -200.0f, -90.0f, 90.0f, 200.0f, 1e18f};
    device.upload(values, x);
    const Tensor ones = device.allocate(1, 6, DType::kF32);
    std::fill_n(ones.data<float>(), 6, 1.0f);
    const Tensor d_x = poisoned(device, 1, 6);
    device.gradients().activation(Activation::kSilu, x, ones, d_x);
    for (int64_t j = 0; j < 6; ++j) {
      EXPECT_NEAR(at(d_x, 0, j), j < 3 ? 0.0 : 1.0, 1e-6) << device.name() << " " << j;
    }
  });
}

TEST(ColumnSums, add_every_row_to_what_is_there) {
  test::on_every_isa([](Device& device) {
    for (const int64_t rows : {1, 64, 65, 300}) {
      const Tensor d_y = random_tensor(device, rows, 270, DType::kF32, 1);
      const Tensor d_bias = random_tensor(device, 1, 270, DType::kF32, 2);
      std::vector<double> expected = row_of(d_bias, 0);
      device.gradients().column_sums(d_y, d_bias);
      for (int64_t j = 0; j < 270; ++j) {
        double& sum = expected[static_cast<size_t>(j)];
        for (int64_t row = 0; row < rows; ++row) sum += at(d_y, row, j);
        // 64 additions of values below 5 in f32, then f64.
        ASSERT_NEAR(at(d_bias, 0, j), sum, 64.0 * 40.0 * test::kF32Unit) << device.name();
      }
    }
  });
}

TunedLinear random_linear(Device& device, int64_t rows, int64_t cols, int planes, int64_t group) {
  TunedLinear linear;
  linear.planes = planes;
  linear.group_size = group;
  linear.codes = device.allocate(rows, cols, DType::kU8);
  Rng rng(7);
  for (int64_t i = 0; i < linear.codes.size(); ++i) {
    linear.codes.data<uint8_t>()[i] = static_cast<uint8_t>(rng.below(uint64_t{1} << planes));
  }
  linear.params = random_tensor(device, rows, (cols + group - 1) / group * planes, DType::kF32, 8);
  linear.column_scale = random_tensor(device, 1, cols, DType::kF32, 9);
  return linear;
}

/// c_j Σ ±r_k, literally.
double weight_at(const TunedLinear& linear, int64_t row, int64_t col) {
  const int64_t group = col / linear.group_size;
  const int code = linear.codes.data<uint8_t>()[row * linear.codes.cols() + col];
  double sum = 0.0;
  for (int plane = 0; plane < linear.planes; ++plane) {
    const double r = at(linear.params, row, group * linear.planes + plane);
    sum += ((code >> plane) & 1) != 0 ? r : -r;
  }
  return at(linear.column_scale, 0, col) * sum;
}

TEST(TunedLinear, rebuilds_the_weight_from_codes_and_scales) {
  test::on_every_isa([](Device& device) {
    for (const int planes : {1, 2, 3}) {
      const TunedLinear linear = random_linear(device, 19, 75, planes, 32);
      const Tensor w = poisoned(device, 19, 75);
      const Tensor narrow = device.allocate(19, 75, DType::kBF16);
      device.gradients().reconstruct(linear, w);
      device.gradients().reconstruct(linear, narrow);
      for (int64_t i = 0; i < 19; ++i) {
        for (int64_t j = 0; j < 75; ++j) {
          ASSERT_NEAR(at(w, i, j), weight_at(linear, i, j), 40.0 * 4.0 * test::kF32Unit);
          ASSERT_EQ(at(narrow, i, j), test::bf16_rounded(at(w, i, j))) << device.name();
        }
      }
    }
  });
}

TEST(TunedLinear, gradient_of_the_scales_is_that_of_the_weight_along_them) {
  test::on_every_isa([](Device& device) {
    for (const int planes : {1, 2, 3}) {
      for (const int64_t group : {32, 64, 7}) {
        TunedLinear linear = random_linear(device, 19, 75, planes, group);
        const Tensor d_w = random_tensor(device, 19, 75, DType::kF32, 1);
        const Tensor d_params = poisoned(device, 19, linear.params.cols());
        device.gradients().scale_gradients(linear, d_w, d_params);
        for (int64_t i = 0; i < 19; ++i) {
          for (int64_t p = 0; p < linear.params.cols(); ++p) {
            // The weight is linear in r: the difference quotient over a step of 1 is exact.
            const int64_t first = p / planes * group, last = std::min<int64_t>(75, first + group);
            double expected = 0.0, size = 0.0;
            float& r = linear.params.data<float>()[i * linear.params.cols() + p];
            for (int64_t j = first; j < last; ++j) {
              const float value = r;
              const double below = weight_at(linear, i, j);
              r = value + 1.0f;
              const double slope = (weight_at(linear, i, j) - below) /
                                   (static_cast<double>(r) - static_cast<double>(value));
              r = value;
              expected += at(d_w, i, j) * slope;
              size += std::abs(at(d_w, i, j) * slope);
            }
            ASSERT_NEAR(at(d_params, i, p), expected,
                        static_cast<double>(group + 2) * test::kF32Unit * size + 1e-12)
                << device.name() << " planes " << planes << " group " << group;
          }
        }
      }
    }
  });
}

TEST(SquaredError, sums_in_double_and_scales_the_gradient) {
  test::on_every_isa([](Device& device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      const Tensor y = random_tensor(device, 35, 23, DType::kF32, 1);
      const Tensor target = random_tensor(device, 35, 23, type, 2);
      const Tensor d_y = poisoned(device, 35, 23);
      const double found = device.gradients().squared_error(y, target, 0.25f, d_y);
      double expected = 0.0;
      for (int64_t i = 0; i < 35; ++i) {
        for (int64_t j = 0; j < 23; ++j) {
          const double difference = at(y, i, j) - at(target, i, j);
          expected += difference * difference;
          ASSERT_NEAR(at(d_y, i, j), 0.25 * difference, 10.0 * test::kF32Unit);
        }
      }
      EXPECT_NEAR(found, expected, 1e-12 * expected) << device.name();
    }
  });
}

/// KL(softmax(reference) ‖ softmax(logits)) of one row.
double divergence_of(const std::vector<double>& reference, const std::vector<double>& logits) {
  double reference_sum = 0.0, sum = 0.0, result = 0.0;
  for (const double x : reference) reference_sum += std::exp(x);
  for (const double x : logits) sum += std::exp(x);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i] - std::log(reference_sum);
    result += std::exp(log_p) * (log_p - logits[i] + std::log(sum));
  }
  return result;
}

TEST(Divergence, and_its_gradient_equal_f64_and_finite_differences_also_in_place) {
  test::on_every_isa([](Device& device) {
    for (const int64_t n : {2, 33, 1500}) {
      const Tensor reference = random_tensor(device, 5, n, DType::kF32, 1, 4.0);
      const Tensor logits = random_tensor(device, 5, n, DType::kF32, 2, 4.0);
      std::copy_n(reference.data<float>() + n, n, logits.data<float>() + n);  // row 1: the same
      const Tensor d_logits = poisoned(device, 5, n);
      const double found = device.gradients().divergence(reference, logits, 0.5f, d_logits);
      double expected = 0.0;
      for (int64_t row = 0; row < 5; ++row) {
        const std::vector<double> wanted = row_of(reference, row);
        std::vector<double> given = row_of(logits, row);
        const auto loss = [&] { return divergence_of(wanted, given); };
        expected += loss();
        for (int64_t i = 0; i < n; i += 1 + n / 40) {
          // Probabilities of at most 1, exponentials within 4 roundings of arguments up to 40.
          ASSERT_NEAR(at(d_logits, row, i),
                      0.5 * finite_difference(given, static_cast<size_t>(i), loss),
                      160.0 * test::kF32Unit)
              << device.name() << " " << n;
        }
      }
      // Differences of up to about 30, weighted by probabilities of that error.
      EXPECT_NEAR(found, expected, 5 * 30.0 * 160.0 * test::kF32Unit) << device.name() << " " << n;
      const std::string apart = test::bytes_of(d_logits);
      EXPECT_EQ(device.gradients().divergence(reference, logits, 0.5f, logits), found);
      EXPECT_EQ(test::bytes_of(logits), apart);
    }
  });
}

TEST(Adam, follows_its_formulas_over_several_steps) {
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool);
  const Tensor parameter = random_tensor(*device, 3, 5, DType::kF32, 1);
  const Tensor first = device->allocate(3, 5, DType::kF32);
  const Tensor second = device->allocate(3, 5, DType::kF32);
  device->fill_zero(first);
  device->fill_zero(second);
  std::vector<double> value(15), m(15), v(15);
  for (int64_t i = 0; i < 15; ++i) value[static_cast<size_t>(i)] = at(parameter, i / 5, i % 5);
  for (int64_t t = 1; t <= 5; ++t) {
    const Tensor gradient =
        random_tensor(*device, 3, 5, DType::kF32, static_cast<uint64_t>(t) + 10);
    AdamStep step;
    step.rate = 0.01f / static_cast<float>(t);
    step.step = t;
    device->gradients().adam(parameter, gradient, first, second, step);
    for (size_t i = 0; i < 15; ++i) {
      const double g = at(gradient, static_cast<int64_t>(i) / 5, static_cast<int64_t>(i) % 5);
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.95 * v[i] + 0.05 * g * g;
      const double m_hat = m[i] / (1.0 - std::pow(0.9, static_cast<double>(t)));
      const double v_hat = v[i] / (1.0 - std::pow(0.95, static_cast<double>(t)));
      value[i] -= static_cast<double>(step.rate) * m_hat / (std::sqrt(v_hat) + 1e-8);
      // beta1, beta2 and the rate as floats: 1e-6 relative of steps within 0.03.
      EXPECT_NEAR(at(parameter, static_cast<int64_t>(i) / 5, static_cast<int64_t>(i) % 5), value[i],
                  1e-6)
          << "step " << t;
    }
  }
}

TEST(Gradients, do_not_depend_on_the_number_of_threads) {
  const auto same = test::same_on_any_thread_count;
  const auto values = [](Device& device, int64_t rows, int64_t cols, uint64_t seed) {
    return random_tensor(device, rows, cols, DType::kF32, seed);
  };
  EXPECT_TRUE(same([&](Device& device) {
    const Tensor d_w = device.allocate(300, 530, DType::kF32);
    device.gradients().linear_weight(values(device, 270, 300, 1), values(device, 270, 530, 2), d_w);
    return d_w;
  }));
  EXPECT_TRUE(same([&](Device& device) {
    const Tensor x = values(device, 333, 70, 1), gain = values(device, 1, 70, 2);
    const Tensor sums = device.allocate(2, 70, DType::kF32);
    device.fill_zero(sums);
    device.gradients().norm(x, {NormKind::kLayer, gain, Tensor()}, x, copy_of(device, x),
                            sums.row_range(0, 1), sums.row_range(1, 1));
    device.gradients().column_sums(x, sums.row_range(1, 1));
    return sums;
  }));
  EXPECT_TRUE(same([&](Device& device) {
    const Tensor y = values(device, 333, 70, 1), target = values(device, 333, 70, 2);
    const Tensor result = device.allocate(1, 1, DType::kF64);
    *result.data<double>() = device.gradients().squared_error(y, target, 1.0f, y);
    return result;
  }));
  EXPECT_TRUE(same([&](Device& device) {
    const TunedLinear linear = random_linear(device, 50, 130, 2, 64);
    const Tensor d_params = device.allocate(50, linear.params.cols(), DType::kF32);
    device.gradients().scale_gradients(linear, values(device, 50, 130, 3), d_params);
    return d_params;
  }));
}

}  // namespace
}  // namespace d2q
