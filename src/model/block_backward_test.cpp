// Gradients of a block against PyTorch's autograd (tools/make_block_gradient_golden.py), and
// against finite differences where it has no model of the kind.
#include "model/block_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "format/safetensors.h"
#include "kernels/host_copy.h"
#include "model/fake_weights.h"

namespace d2q {
namespace {

std::vector<float> values_of(const Tensor& x) {
  return {x.data<float>(), x.data<float>() + x.size()};
}

/// max|a - b| / max|b|, NaN when there is one.
double relative_error(const std::vector<float>& actual, const std::vector<float>& expected) {
  if (actual.size() != expected.size()) return HUGE_VAL;
  double difference = 0.0;
  double largest = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error =
        std::abs(static_cast<double>(actual[i]) - static_cast<double>(expected[i]));
    difference = error <= difference ? difference : error;
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
  }
  return difference / largest;
}

/// Every gradient of a block by name, of the loss Σ y ⊙ d_y; and y and d_x.
std::map<std::string, std::vector<float>> gradients_of(Device& device, const BlockBackward& block,
                                                       const BlockWeights& w, const Tensor& x,
                                                       const Tensor& d_y) {
  std::map<std::string, std::vector<float>> result;
  const auto zeros = [&] {
    const Tensor tensor = device.allocate(1, x.cols(), DType::kF32);
    device.fill_zero(tensor);
    return tensor;
  };
  BlockGradients gradients;
  gradients.attention_norm = {zeros(), zeros()};
  gradients.mlp_norm = {zeros(), zeros()};
  gradients.wants = [](Projection) { return true; };
  gradients.take = [&](Projection projection, const Tensor& d_weight, const Tensor& d_bias) {
    const std::string name = block_linear(projection).name;
    EXPECT_FALSE(result.contains(name + ".weight"));
    result[name + ".weight"] = values_of(d_weight);
    if (!d_bias.empty()) result[name + ".bias"] = values_of(d_bias);
  };
  const BlockActivations activations = block.forward(w, x);
  const Tensor gradient = device.allocate(x.rows(), x.cols(), DType::kF32);
  device.convert(d_y, gradient);
  block.backward(w, activations, gradient, gradients);
  result["y"] = values_of(activations.y);
  result["x"] = values_of(gradient);
  result["attention_norm.gain"] = values_of(gradients.attention_norm.gain);
  result["attention_norm.shift"] = values_of(gradients.attention_norm.shift);
  result["mlp_norm.gain"] = values_of(gradients.mlp_norm.gain);
  result["mlp_norm.shift"] = values_of(gradients.mlp_norm.shift);
  return result;
}

class BlockBackwardTest : public ::testing::Test {
 protected:
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

class GoldenGradients : public BlockBackwardTest,
                        public ::testing::WithParamInterface<const char*> {
 protected:
  static constexpr int64_t kLength = 20;

  Matrix<float> golden(const std::string& name) const {
    const SafetensorsTensor* tensor = file_.find(std::string(GetParam()) + "." + name);
    D2Q_CHECK(tensor != nullptr, "no {}", name);
    Matrix<float> values(tensor->shape[0], tensor->shape[1]);
    std::memcpy(values.data(), tensor->bytes.data(), tensor->bytes.size());
    return values;
  }

  /// The largest relative error of y and of any gradient.
  double largest_error(DType products) {
    const auto source =
        open_model(std::filesystem::path(D2Q_TEST_DATA) / ("logits_" + std::string(GetParam())));
    BlockWeights w = load_block(*device_, *source, 1, products);
    w.attention_norm.shift = to_device(*device_, golden("attention_norm.shift"));
    w.mlp_norm.shift = to_device(*device_, golden("mlp_norm.shift"));
    const RopeTables rope = make_rope_tables(*device_, source->config(), kLength);
    const BlockBackward block(*device_, source->config(), rope, products, kLength);
    const auto actual = gradients_of(*device_, block, w, to_device(*device_, golden("x")),
                                     to_device(*device_, golden("d_y")));
    double largest = 0.0;
    size_t n_compared = 0;
    for (const SafetensorsTensor& tensor : file_.tensors()) {
      const std::string prefix = std::string(GetParam()) + ".";
      if (!tensor.name.starts_with(prefix)) continue;
      std::string name = tensor.name.substr(prefix.size());
      if (name.starts_with("gradient.")) {
        name = name.substr(std::string("gradient.").size());
      } else if (name != "y") {
        continue;
      }
      const Matrix<float> expected = golden(tensor.name.substr(prefix.size()));
      const double error =
          relative_error(actual.at(name), {expected.data(), expected.data() + expected.size()});
      EXPECT_TRUE(std::isfinite(error)) << name;
      largest = std::max(largest, error);
      ++n_compared;
    }
    EXPECT_EQ(n_compared, actual.size());
    return largest;
  }

  SafetensorsFile file_{std::filesystem::path(D2Q_TEST_DATA) / "block_gradients.safetensors"};
};

TEST_P(GoldenGradients, InF32AreWithinTheRoundingOfTheirSums) {
  // Some ten sums of at most 48 terms in a row, 2^-24 each.
  EXPECT_LE(largest_error(DType::kF32), 3e-5);
}

TEST_P(GoldenGradients, InBf16AreWithinItsRounding) {
  // As for the logits: some twenty roundings of 2^-9, and probabilities of large scores.
  EXPECT_LE(largest_error(DType::kBF16), 0.1);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenGradients,
                         ::testing::Values("llama", "mistral_window", "qwen2", "qwen3"),
                         [](const auto& test_case) { return std::string(test_case.param); });

class SmallBlock : public BlockBackwardTest {
 protected:
  static constexpr int64_t kLength = 12;

  SmallBlock() { config_.activation = Activation::kGeluTanh; }
  Tensor random(int64_t rows, int64_t cols) {
    const Tensor x = device_->allocate(rows, cols, DType::kF32);
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = static_cast<float>(rng_.gaussian());
    return x;
  }

  Rng rng_{3};
  ModelConfig config_ = test::small_config();
  test::FakeWeights source_{config_};
  RopeTables rope_ = make_rope_tables(*device_, config_, kLength);
  BlockBackward block_{*device_, config_, rope_, DType::kF32, kLength};
};

TEST_F(SmallBlock, OfAnUngatedFamilyHasTheGradientsOfFiniteDifferences) {
  BlockWeights w = load_block(*device_, source_, 0, DType::kF32);
  w.gate = {};
  const Tensor x = random(3 * kLength, config_.hidden_size);
  const Tensor d_y = random(3 * kLength, config_.hidden_size);
  const auto loss = [&] {
    const Tensor y = block_.forward(w, x).y;
    double sum = 0.0;
    for (int64_t i = 0; i < y.size(); ++i)
      sum += static_cast<double>(y.data<float>()[i]) * static_cast<double>(d_y.data<float>()[i]);
    return sum;
  };
  const auto gradients = gradients_of(*device_, block_, w, x, d_y);
  EXPECT_FALSE(gradients.contains("gate_proj.weight"));
  const std::map<std::string, Tensor> parameters = {{"x", x},
                                                    {"up_proj.weight", w.up.dense},
                                                    {"down_proj.weight", w.down.dense},
                                                    {"q_proj.weight", w.q.dense},
                                                    {"k_proj.weight", w.k.dense},
                                                    {"v_proj.weight", w.v.dense},
                                                    {"o_proj.weight", w.o.dense},
                                                    {"attention_norm.gain", w.attention_norm.gain},
                                                    {"mlp_norm.gain", w.mlp_norm.gain}};
  for (const auto& [name, parameter] : parameters) {
    const Tensor direction = random(parameter.rows(), parameter.cols());
    double expected = 0.0;
    double length = 0.0;
    for (int64_t i = 0; i < direction.size(); ++i) {
      const auto step = static_cast<double>(direction.data<float>()[i]);
      const auto slope = static_cast<double>(gradients.at(name)[static_cast<size_t>(i)]);
      expected += step * slope;
      length += slope * slope;
    }
    const auto loss_at = [&, parameter = parameter](float step) {
      for (int64_t i = 0; i < parameter.size(); ++i)
        parameter.data<float>()[i] += step * direction.data<float>()[i];
      const double value = loss();
      for (int64_t i = 0; i < parameter.size(); ++i)
        parameter.data<float>()[i] -= step * direction.data<float>()[i];
      return value;
    };
    constexpr float kStep = 2e-3f;
    const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2.0 * static_cast<double>(kStep));
    // A random direction's slope is about the gradient's length; f32 sums of 1,700 terms leave
    // 1e-4 of it, the third derivative less.
    EXPECT_NEAR(slope, expected, 1e-2 * std::sqrt(length)) << name;
  }
}

TEST_F(SmallBlock, MakesNoGradientThatIsNotWanted) {
  const BlockWeights w = load_block(*device_, source_, 0, DType::kF32);
  const Tensor x = random(kLength, config_.hidden_size);
  const Tensor gradient = random(kLength, config_.hidden_size);
  const Tensor sums = device_->allocate(4, config_.hidden_size, DType::kF32);
  device_->fill_zero(sums);
  std::vector<Projection> taken;
  BlockGradients gradients;
  gradients.attention_norm = {sums.row_range(0, 1), sums.row_range(1, 1)};
  gradients.mlp_norm = {sums.row_range(2, 1), sums.row_range(3, 1)};
  gradients.wants = [](Projection projection) { return projection == Projection::kV; };
  gradients.take = [&](Projection projection, const Tensor& d_weight, const Tensor&) {
    taken.push_back(projection);
    EXPECT_EQ(d_weight.rows(), w.v.dense.rows());
    EXPECT_EQ(d_weight.cols(), w.v.dense.cols());
  };
  block_.backward(w, block_.forward(w, x), gradient, gradients);
  EXPECT_EQ(taken, std::vector<Projection>{Projection::kV});
}

TEST_F(SmallBlock, GivesTheSameBitsOnOneAndThreeThreads) {
  const BlockWeights w = load_block(*device_, source_, 0, DType::kF32);
  const Tensor x = random(2 * kLength, config_.hidden_size);
  const Tensor d_y = random(2 * kLength, config_.hidden_size);
  const auto expected = gradients_of(*device_, block_, w, x, d_y);
  for (const int n_threads : {1, 3}) {
    ThreadPool pool(n_threads);
    const auto device = make_cpu_device(pool);
    const BlockBackward block(*device, config_, rope_, DType::kF32, kLength);
    EXPECT_EQ(gradients_of(*device, block, w, x, d_y), expected);
  }
}

}  // namespace
}  // namespace d2q
