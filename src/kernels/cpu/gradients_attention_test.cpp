#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cpu/test_support.h"
#include "kernels/gradient_ops.h"

namespace d2q {
namespace {

using test::at;
using test::random_tensor;

/// One attention head of one sequence in double: rows of q, k, v, d_y as vectors.
struct Head {
  int64_t length, head_dim, window;
  double scale;
  std::vector<double> q, k, v, d_y;

  double dot(const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j,
             bool absolute = false) const {
    double sum = 0.0;
    for (int64_t d = 0; d < head_dim; ++d) {
      const double product =
          a[static_cast<size_t>(i * head_dim + d)] * b[static_cast<size_t>(j * head_dim + d)];
      sum += absolute ? std::abs(product) : product;
    }
    return sum;
  }
  int64_t first_key(int64_t query) const {
    return window > 0 ? std::max<int64_t>(0, query + 1 - window) : 0;
  }
  /// softmax(scale q kᵀ) of one query over keys 0..query.
  std::vector<double> probabilities(int64_t query) const {
    std::vector<double> p(static_cast<size_t>(query + 1));
    double top = -INFINITY, sum = 0.0;
    for (int64_t key = first_key(query); key <= query; ++key) {
      top = std::max(top, scale * dot(q, query, k, key));
    }
    for (int64_t key = first_key(query); key <= query; ++key) {
      p[static_cast<size_t>(key)] = std::exp(scale * dot(q, query, k, key) - top);
      sum += p[static_cast<size_t>(key)];
    }
    for (double& x : p) x /= sum;
    return p;
  }
  std::vector<double> output(int64_t query) const {
    const std::vector<double> p = probabilities(query);
    std::vector<double> y(static_cast<size_t>(head_dim));
    for (int64_t key = 0; key <= query; ++key) {
      for (int64_t d = 0; d < head_dim; ++d) {
        y[static_cast<size_t>(d)] +=
            p[static_cast<size_t>(key)] * v[static_cast<size_t>(key * head_dim + d)];
      }
    }
    return y;
  }
  /// Σ y ⊙ d_y, whose gradients the tests are about.
  double loss() const {
    double sum = 0.0;
    for (int64_t query = 0; query < length; ++query) {
      const std::vector<double> y = output(query);
      for (int64_t d = 0; d < head_dim; ++d) {
        sum += y[static_cast<size_t>(d)] * d_y[static_cast<size_t>(query * head_dim + d)];
      }
    }
    return sum;
  }
};

/// Gradients by the formulas, and how far rounding may move each value.
struct Expected {
  std::vector<double> q, k, v;
  std::vector<double> q_error, k_error, v_error;
};

/// `rounding`: the relative error of p and d_score as the products take them. Scores and d_p are
/// sums of head_dim products in f32, and results sums of at most length + 1 terms.
Expected expected_gradients(const Head& head, double rounding) {
  const auto size = static_cast<size_t>(head.length * head.head_dim);
  Expected result{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size),
                  std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  const double sum_error = static_cast<double>(head.head_dim + head.length + 8) * test::kF32Unit;
  for (int64_t i = 0; i < head.length; ++i) {
    const std::vector<double> p = head.probabilities(i);
    const std::vector<double> y = head.output(i);
    double delta = 0.0, delta_size = 0.0;
    for (int64_t d = 0; d < head.head_dim; ++d) {
      const double product =
          y[static_cast<size_t>(d)] * head.d_y[static_cast<size_t>(i * head.head_dim + d)];
      delta += product;
      delta_size += std::abs(product);
    }
    for (int64_t j = head.first_key(i); j <= i; ++j) {
      const double probability = p[static_cast<size_t>(j)];
      const double d_score = head.scale * probability * (head.dot(head.d_y, i, head.v, j) - delta);
      const double size_of_slope =
          head.scale * probability * (head.dot(head.d_y, i, head.v, j, true) + delta_size);
      const double relative =
          sum_error * (1.0 + head.scale * head.dot(head.q, i, head.k, j, true)) +
          (rounding > 0.0 ? 1e-5 : 0.0);
      const double p_error = (rounding + relative) * probability;
      const double d_score_error = rounding * std::abs(d_score) + relative * size_of_slope;
      for (int64_t d = 0; d < head.head_dim; ++d) {
        const auto a = static_cast<size_t>(i * head.head_dim + d);
        const auto b = static_cast<size_t>(j * head.head_dim + d);
        result.q[a] += d_score * head.k[b];
        result.k[b] += d_score * head.q[a];
        result.v[b] += probability * head.d_y[a];
        result.q_error[a] += d_score_error * std::abs(head.k[b]);
        result.k_error[b] += d_score_error * std::abs(head.q[a]);
        result.v_error[b] += p_error * std::abs(head.d_y[a]);
      }
    }
  }
  return result;
}

std::vector<double> head_rows(const Tensor& x, int64_t sequence, int64_t length, int64_t head,
                              int64_t head_dim) {
  std::vector<double> rows;
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t d = 0; d < head_dim; ++d) {
      rows.push_back(at(x, sequence * length + t, head * head_dim + d));
    }
  }
  return rows;
}

Head one_head(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_y,
              const AttentionShape& s, int64_t sequence, int64_t head) {
  const int64_t kv_head = head / (s.n_heads / s.n_kv_heads), n = s.sequence_length;
  return {n,
          s.head_dim,
          s.window,
          static_cast<double>(s.scale),
          head_rows(q, sequence, n, head, s.head_dim),
          head_rows(k, sequence, n, kv_head, s.head_dim),
          head_rows(v, sequence, n, kv_head, s.head_dim),
          head_rows(d_y, sequence, n, head, s.head_dim)};
}

AttentionShape shape(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t length,
                     int64_t window) {
  return {.n_heads = heads,
          .n_kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
          .sequence_length = length,
          .past_length = 0,
          .window = window};
}

/// The inputs of a backward, every value exact in bf16, and its results.
struct Backward {
  Tensor q, k, v, y, d_y, d_q, d_k, d_v;
};

Backward run_backward(Device& device, const AttentionShape& s, int64_t n_sequences, DType type,
                      DType products) {
  const int64_t rows = n_sequences * s.sequence_length, width = s.n_heads * s.head_dim,
                kv_width = s.n_kv_heads * s.head_dim;
  const auto input = [&](int64_t cols, uint64_t seed) {
    const Tensor narrow = random_tensor(device, rows, cols, DType::kBF16, seed);
    const Tensor result = device.allocate(rows, cols, type);
    device.convert(narrow, result);
    return result;
  };
  const auto poisoned = [&](int64_t cols) {
    const Tensor result = device.allocate(rows, cols, DType::kF32);
    std::fill_n(result.data<float>(), result.size(), NAN);
    return result;
  };
  Backward b{input(width, 1),    input(kv_width, 2),
             input(kv_width, 3), device.allocate(rows, width, DType::kF32),
             input(width, 4),    poisoned(width),
             poisoned(kv_width), poisoned(kv_width)};
  for (int64_t sequence = 0; sequence < n_sequences; ++sequence) {
    for (int64_t head = 0; head < s.n_heads; ++head) {
      const Head h = one_head(b.q, b.k, b.v, b.d_y, s, sequence, head);
      for (int64_t t = 0; t < s.sequence_length; ++t) {
        const std::vector<double> y = h.output(t);
        std::transform(
            y.begin(), y.end(),
            b.y.data<float>() + (sequence * s.sequence_length + t) * width + head * s.head_dim,
            [](double value) { return static_cast<float>(value); });
      }
    }
  }
  device.gradients().attention(b.q, b.k, b.v, b.y, b.d_y, s, b.d_q, b.d_k, b.d_v, products);
  return b;
}

void check_backward(Device& device, const AttentionShape& s, int64_t n_sequences, DType type,
                    DType products) {
  const Backward b = run_backward(device, s, n_sequences, type, products);
  const double rounding = products == DType::kBF16 ? test::kBf16Unit : 0.0;
  const int64_t group = s.n_heads / s.n_kv_heads, n = s.sequence_length;
  const auto compare = [&](const Tensor& found, int64_t sequence, int64_t head,
                           const std::vector<double>& expected, const std::vector<double>& error,
                           const char* what) {
    for (int64_t t = 0; t < n; ++t) {
      for (int64_t d = 0; d < s.head_dim; ++d) {
        const auto i = static_cast<size_t>(t * s.head_dim + d);
        ASSERT_NEAR(at(found, sequence * n + t, head * s.head_dim + d), expected[i],
                    error[i] + 1e-30)
            << device.name() << " " << what << " token " << t << " head " << head << " length " << n
            << " window " << s.window;
      }
    }
  };
  for (int64_t sequence = 0; sequence < n_sequences; ++sequence) {
    for (int64_t kv_head = 0; kv_head < s.n_kv_heads; ++kv_head) {
      Expected sum;
      for (int64_t member = 0; member < group; ++member) {
        const int64_t head = kv_head * group + member;
        const Expected e =
            expected_gradients(one_head(b.q, b.k, b.v, b.d_y, s, sequence, head), rounding);
        compare(b.d_q, sequence, head, e.q, e.q_error, "d_q");
        if (member == 0) {
          sum = e;
          continue;
        }
        for (size_t i = 0; i < sum.k.size(); ++i) {
          sum.k[i] += e.k[i];
          sum.v[i] += e.v[i];
          sum.k_error[i] += e.k_error[i];
          sum.v_error[i] += e.v_error[i];
        }
      }
      compare(b.d_k, sequence, kv_head, sum.k, sum.k_error, "d_k");
      compare(b.d_v, sequence, kv_head, sum.v, sum.v_error, "d_v");
    }
  }
}

TEST(AttentionGradient, formulas_of_the_reference_equal_finite_differences) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  for (const int64_t window : {0, 3}) {
    const AttentionShape s = shape(1, 1, 5, 9, window);
    const auto tensor = [&](uint64_t seed) {
      return random_tensor(*device, 9, 5, DType::kF32, seed);
    };
    Head head = one_head(tensor(1), tensor(2), tensor(3), tensor(4), s, 0, 0);
    const Expected expected = expected_gradients(head, 0.0);
    const auto check = [&](std::vector<double>& input, const std::vector<double>& gradient) {
      constexpr double kStep = 1e-5;
      for (size_t i = 0; i < input.size(); ++i) {
        const double value = input[i];
        input[i] = value + kStep;
        const double above = head.loss();
        input[i] = value - kStep;
        const double below = head.loss();
        input[i] = value;
        // Third derivatives of order 10 times the step's square.
        EXPECT_NEAR((above - below) / (2.0 * kStep), gradient[i], 1e-8);
      }
    };
    check(head.q, expected.q);
    check(head.k, expected.k);
    check(head.v, expected.v);
  }
}

TEST(AttentionGradient, equals_the_reference_in_double) {
  test::on_every_isa([](Device& device) {
    for (const DType products : {DType::kF32, DType::kBF16}) {
      check_backward(device, shape(1, 1, 8, 1, 0), 2, DType::kF32, products);
      check_backward(device, shape(3, 1, 64, 17, 0), 2, DType::kF32, products);
      check_backward(device, shape(4, 2, 10, 65, 0), 3, DType::kBF16, products);
      check_backward(device, shape(3, 1, 16, 300, 0), 2, DType::kF32, products);
      check_backward(device, shape(2, 2, 128, 200, 0), 1, DType::kF32, products);
      check_backward(device, shape(1, 1, 16, 1100, 0), 1, DType::kF32, products);
    }
  });
}

TEST(AttentionGradient, masks_keys_outside_the_sliding_window) {
  test::on_every_isa([](Device& device) {
    for (const DType products : {DType::kF32, DType::kBF16}) {
      check_backward(device, shape(2, 1, 16, 40, 1), 1, DType::kF32, products);
      check_backward(device, shape(2, 1, 16, 40, 7), 2, DType::kF32, products);
      check_backward(device, shape(3, 1, 8, 700, 300), 1, DType::kF32, products);
    }
  });
}

TEST(AttentionGradient, does_not_depend_on_the_number_of_threads) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    for (const int result : {0, 1, 2}) {
      EXPECT_TRUE(test::same_on_any_thread_count([&](Device& device) {
        const Backward b = run_backward(device, shape(4, 2, 8, 600, 0), 1, DType::kF32, products);
        return result == 0 ? b.d_q : result == 1 ? b.d_k : b.d_v;
      }));
    }
  }
}

}  // namespace
}  // namespace d2q
