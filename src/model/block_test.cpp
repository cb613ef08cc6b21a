#include "model/block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/fake_weights.h"

namespace d2q {
namespace {

using Rows = std::vector<std::vector<double>>;

Rows rows_of(const Matrix<float>& m) {
  Rows result(static_cast<size_t>(m.rows()));
  for (int64_t i = 0; i < m.rows(); ++i)
    result[static_cast<size_t>(i)].assign(m.row(i), m.row(i) + m.cols());
  return result;
}

Rows times(const Rows& x, const Rows& w) {
  Rows y(x.size(), std::vector<double>(w.size()));
  for (size_t t = 0; t < x.size(); ++t) {
    for (size_t o = 0; o < w.size(); ++o) {
      for (size_t i = 0; i < x[t].size(); ++i) y[t][o] += x[t][i] * w[o][i];
    }
  }
  return y;
}

Rows rms_norm(const Rows& x, const Rows& gain, double epsilon) {
  Rows y = x;
  for (auto& row : y) {
    double square = 0.0;
    for (const double value : row) square += value * value / static_cast<double>(row.size());
    for (size_t i = 0; i < row.size(); ++i) row[i] *= gain[0][i] / std::sqrt(square + epsilon);
  }
  return y;
}

/// A LLaMA block in double, every formula written out. Sequences of `length` rows.
struct Reference {
  const test::FakeWeights& weights;
  const ModelConfig& config;
  Rows load(const std::string& name) const {
    return rows_of(weights.load("model.layers.1." + name + ".weight"));
  }

  void rotate(Rows& x, size_t length) const {
    const auto dim = static_cast<size_t>(config.head_dim);
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t head = 0; head < x[t].size(); head += dim) {
        for (size_t i = 0; i < dim / 2; ++i) {
          const double angle =
              static_cast<double>(t % length) *
              std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
          double& a = x[t][head + i];
          double& b = x[t][head + dim / 2 + i];
          const double turned = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a * std::sin(angle);
          a = turned;
        }
      }
    }
  }

  Rows attention(const Rows& h, size_t length) const {
    Rows q = times(h, load("self_attn.q_proj")), k = times(h, load("self_attn.k_proj"));
    const Rows v = times(h, load("self_attn.v_proj"));
    rotate(q, length);
    rotate(k, length);
    const auto dim = static_cast<size_t>(config.head_dim);
    const auto group = static_cast<size_t>(config.n_heads / config.n_kv_heads);
    Rows a(h.size(), std::vector<double>(q[0].size()));
    for (size_t t = 0; t < h.size(); ++t) {
      for (size_t head = 0; head < static_cast<size_t>(config.n_heads); ++head) {
        double sum = 0.0;
        for (size_t key = t / length * length; key <= t; ++key) {
          double score = 0.0;
          for (size_t i = 0; i < dim; ++i)
            score += q[t][head * dim + i] * k[key][head / group * dim + i];
          const double p = std::exp(score / std::sqrt(static_cast<double>(dim)));
          sum += p;
          for (size_t i = 0; i < dim; ++i)
            a[t][head * dim + i] += p * v[key][head / group * dim + i];
        }
        for (size_t i = 0; i < dim; ++i) a[t][head * dim + i] /= sum;
      }
    }
    return a;
  }

  Rows mlp(const Rows& h) const {
    Rows m = times(h, load("mlp.gate_proj"));
    const Rows up = times(h, load("mlp.up_proj"));
    for (size_t t = 0; t < m.size(); ++t) {
      for (size_t i = 0; i < m[t].size(); ++i)
        m[t][i] = m[t][i] / (1.0 + std::exp(-m[t][i])) * up[t][i];
    }
    return m;
  }
};

double largest_difference(Device& device, const Tensor& actual, const Rows& expected) {
  const Tensor wide = device.allocate(actual.rows(), actual.cols(), DType::kF32);
  device.convert(actual, wide);
  double difference = 0.0, largest = 0.0;
  for (int64_t t = 0; t < wide.rows(); ++t) {
    for (int64_t i = 0; i < wide.cols(); ++i) {
      const double value = expected[static_cast<size_t>(t)][static_cast<size_t>(i)];
      difference =
          std::max(difference,
                   std::fabs(static_cast<double>(wide.data<float>()[t * wide.cols() + i]) - value));
      largest = std::max(largest, std::fabs(value));
    }
  }
  return difference / largest;
}

void check_block(DType dtype, double tolerance) {
  ThreadPool pool(2);
  const auto device = make_cpu_device(pool);
  const ModelConfig config = test::small_config();
  const test::FakeWeights weights(config);
  const Reference reference{weights, config};
  const BlockWeights w = load_block(*device, weights, 1, dtype);
  const RopeTables rope = make_rope_tables(*device, config, 13);
  const BlockStages stages(*device, config, rope, dtype);
  const int64_t length = 13, tokens = 2 * length;

  Matrix<float> input(tokens, config.hidden_size);
  Rng rng(1);
  for (float& value : input.span()) value = static_cast<float>(rng.gaussian());
  Rows expected = rows_of(input);
  const Tensor x = device->allocate(tokens, config.hidden_size, DType::kF32);
  device->upload(input.data(), x);
  const Tensor h = device->allocate(tokens, config.hidden_size, dtype);
  const Tensor a = device->allocate(tokens, config.n_heads * config.head_dim, dtype);
  const Tensor m = device->allocate(tokens, config.intermediate_size, dtype);

  const auto add = [](Rows& sum, const Rows& y) {
    for (size_t t = 0; t < sum.size(); ++t) {
      for (size_t i = 0; i < sum[t].size(); ++i) sum[t][i] += y[t][i];
    }
  };
  stages.attention_input(w, x, h);
  const Rows h1 = rms_norm(expected, reference.load("input_layernorm"),
                           static_cast<double>(config.norm_epsilon));
  EXPECT_LE(largest_difference(*device, h, h1), tolerance);
  stages.attention(w, h, length, a);
  const Rows a1 = reference.attention(h1, static_cast<size_t>(length));
  EXPECT_LE(largest_difference(*device, a, a1), tolerance);
  stages.attention_output(w, a, x);
  add(expected, times(a1, reference.load("self_attn.o_proj")));
  EXPECT_LE(largest_difference(*device, x, expected), tolerance);
  stages.mlp_input(w, x, h);
  const Rows h2 = rms_norm(expected, reference.load("post_attention_layernorm"),
                           static_cast<double>(config.norm_epsilon));
  EXPECT_LE(largest_difference(*device, h, h2), tolerance);
  stages.mlp(w, h, m);
  const Rows m1 = reference.mlp(h2);
  EXPECT_LE(largest_difference(*device, m, m1), tolerance);
  stages.mlp_output(w, m, x);
  add(expected, times(m1, reference.load("mlp.down_proj")));
  EXPECT_LE(largest_difference(*device, x, expected), tolerance);
}

// Each stage adds a few f32 roundings of sums of at most 80 terms: 1e-5 is a hundred of them.
TEST(Block, stages_equal_their_formulas_in_double) { check_block(DType::kF32, 1e-5); }

// Inputs and weights rounded to 2^-9 relative; errors of a sum's terms average out, the largest
// element of six stages stays within ten roundings.
TEST(Block, stages_in_bf16_stay_within_its_rounding) { check_block(DType::kBF16, 10.0 / 512.0); }

TEST(Block, loads_biases_and_head_norms_where_the_family_has_them) {
  ThreadPool pool(1);
  const auto device = make_cpu_device(pool);
  const BlockWeights qwen2 =
      load_block(*device, test::FakeWeights(test::small_config("qwen2")), 0, DType::kF32);
  EXPECT_EQ(qwen2.q.bias.size(), 96);
  EXPECT_TRUE(qwen2.o.bias.empty());
  EXPECT_FALSE(qwen2.q_norm.has_value());
  const BlockWeights qwen3 =
      load_block(*device, test::FakeWeights(test::small_config("qwen3")), 0, DType::kBF16);
  ASSERT_TRUE(qwen3.q_norm.has_value() && qwen3.k_norm.has_value());
  EXPECT_EQ(qwen3.k_norm->gain.size(), 16);
  EXPECT_EQ(qwen3.gate.dense.dtype(), DType::kBF16);
}

}  // namespace
}  // namespace d2q
