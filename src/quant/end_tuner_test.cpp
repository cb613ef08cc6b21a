#include "quant/end_tuner.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/host_copy.h"
#include "model/load_weights.h"
#include "quant/block_quantizer.h"
#include "quant/testing/pipeline_fixture.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

/// The packed model with other scales in one linear.
class WithScales final : public WeightSource {
 public:
  WithScales(std::shared_ptr<const WeightSource> base, std::string name, std::vector<Half> scales)
      : base_(std::move(base)), name_(std::move(name)), scales_(std::move(scales)) {}
  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override { return base_->has(name); }
  Matrix<float> load(const std::string& name) const override { return base_->load(name); }
  std::optional<PackedView> packed(const std::string& name) const override {
    std::optional<PackedView> view = base_->packed(name);
    if (name == name_) view->scales = scales_;
    return view;
  }

 private:
  std::shared_ptr<const WeightSource> base_;
  std::string name_;
  std::vector<Half> scales_;
};

/// What a backward leaves.
struct Collected {
  std::array<std::array<Matrix<float>, kBlockLinears.size()>, 2> weights;
  std::array<std::array<NormGradient, 2>, 2> norms;  // by layer: before attention, before the MLP
  NormGradient final_norm;
};

class EndTunerTest : public test::PipelineTest {
 protected:
  EndTunerTest() {
    options_ = [&] {
      QuantizeOptions best = preset_options("best");
      best.calibration = options_.calibration;
      best.group_size = 16;
      best.samples = 4;
      best.sequence_length = 24;
      best.refine_rounds = 1;
      best.tune_steps = best.end_tune_steps = 0;
      best.rotation = RotationKind::kNone;
      best.bits = 3;
      best.overwrite = true;
      return best;
    }();
    rope_ = make_rope_tables(*device_, test::tiny_config(), options_.sequence_length);
    ids_ = test::random_ids(options_.samples * options_.sequence_length, 420);
  }

  void use(const std::string& family) {
    fs::remove_all(model_);
    test::write_tiny_model(model_, test::tiny_config(family));
    rope_ = make_rope_tables(*device_, test::tiny_config(family), options_.sequence_length);
  }
  std::shared_ptr<const WeightSource> quantized() {
    run("out", options_);
    return open_model(out("out"));
  }
  EndTeacher teacher() {
    const std::shared_ptr<const WeightSource> source = open_model(model_);
    const ModelConfig& config = source->config();
    EndTeacher result{
        device_->allocate(static_cast<int64_t>(ids_.size()), config.hidden_size, DType::kF32),
        load_head(*device_, *source, DType::kF32)};
    InputEmbedding(*device_, *source, DType::kF32)
        .embed(*device_, ids_, options_.sequence_length, 0, result.stream.tensor());
    const BlockBackward blocks(*device_, config, rope_, DType::kF32, options_.sequence_length);
    for (int64_t layer = 0; layer < config.n_layers; ++layer) {
      result.stream =
          blocks.forward(load_block(*device_, *source, layer, DType::kF32), result.stream.tensor())
              .y;
    }
    return result;
  }
  NormGradient zero_gradient() {
    NormGradient result{device_->allocate(1, 48, DType::kF32),
                        device_->allocate(1, 48, DType::kF32)};
    device_->fill_zero(result.gain);
    device_->fill_zero(result.shift);
    return result;
  }
  Collected gradients_of(const EndTuner& tuner, std::span<const int64_t> windows) {
    Collected result;
    for (auto& layer : result.norms) layer = {zero_gradient(), zero_gradient()};
    result.final_norm = zero_gradient();
    const auto of_block = [&](int64_t layer) {
      const auto index = static_cast<size_t>(layer);
      BlockGradients gradients;
      gradients.attention_norm = result.norms[index][0];
      gradients.mlp_norm = result.norms[index][1];
      gradients.wants = [](Projection) { return true; };
      gradients.take = [&result, index, this](Projection projection, const Tensor& d_weight,
                                              const Tensor&) {
        result.weights[index][static_cast<size_t>(projection)] = to_host<float>(*device_, d_weight);
      };
      return gradients;
    };
    tuner.differentiate(ids_, windows, {of_block, result.final_norm, 1.0});
    return result;
  }

  RopeTables rope_;
  std::vector<int32_t> ids_;
};

TEST_F(EndTunerTest, GradientsOfNormsEqualFiniteDifferences) {
  for (const char* family : {"llama", "opt"}) {
    SCOPED_TRACE(family);
    use(family);
    const auto stored = quantized();
    const EndTeacher fp = teacher();
    const TunedModel model(*device_, pool_, *stored, options_, {});
    const EndTuner tuner(*device_, stored->config(), rope_, options_, model, fp, 1);
    const std::vector<int64_t> windows = {2, 0};
    const auto tokens = static_cast<double>(2 * options_.sequence_length);
    const Collected found = gradients_of(tuner, windows);
    const auto check = [&](const Tensor& value, const Tensor& gradient, const char* what) {
      for (const int64_t i : {0, 17, 47}) {
        float& x = value.data<float>()[i];
        const float saved = x;
        x = saved + 0.02f;
        const double above = tuner.divergence(ids_, windows);
        x = saved - 0.02f;
        const double below = tuner.divergence(ids_, windows);
        x = saved;
        const double slope = tokens * (above - below) / 0.04;
        // The third derivative's share of the difference, and f32 activations.
        EXPECT_NEAR(gradient.data<float>()[i], slope, 0.01 + 0.02 * std::abs(slope)) << what << i;
      }
    };
    for (int64_t layer = 0; layer < 2; ++layer) {
      const auto& norms = found.norms[static_cast<size_t>(layer)];
      const BlockWeights& weights = model.block(layer);
      check(weights.attention_norm.gain, norms[0].gain, "attention gain ");
      check(weights.attention_norm.shift, norms[0].shift, "attention shift ");
      check(weights.mlp_norm.gain, norms[1].gain, "mlp gain ");
      check(weights.mlp_norm.shift, norms[1].shift, "mlp shift ");
    }
    check(model.head().norm.gain, found.final_norm.gain, "final gain ");
    check(model.head().norm.shift, found.final_norm.shift, "final shift ");
  }
}

TEST_F(EndTunerTest, GradientsOfWeightsEqualFiniteDifferencesOfStoredScales) {
  options_.layers = {{"layers\\.0.*up_proj", 4, 0}};  // on a uniform grid
  const auto stored = quantized();
  const EndTeacher fp = teacher();
  const std::vector<int64_t> windows = {1, 3};
  const auto tokens = static_cast<double>(2 * options_.sequence_length);
  const TunedModel model(*device_, pool_, *stored, options_, {});
  const EndTuner tuner(*device_, stored->config(), rope_, options_, model, fp, 1);
  const Collected found = gradients_of(tuner, windows);
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (const BlockLinear& linear : kBlockLinears) {
      const std::string name = linear_name(stored->config(), layer, linear.name) + ".weight";
      const PackedView packed = *stored->packed(name);
      // Every scale a bit larger, or smaller: the loss along the weights themselves.
      const auto with = [&](float factor) {
        std::vector<Half> scales(packed.scales.begin(), packed.scales.end());
        const size_t every = packed.layout.kind == PackedKind::kUniform ? 32 : 16;  // not zeros
        for (size_t i = 0; i < scales.size(); ++i) {
          if (i % every < 16) scales[i] = to_half(factor * to_float(scales[i]));
        }
        return std::make_shared<WithScales>(stored, name, std::move(scales));
      };
      const auto larger = with(1.02f), smaller = with(0.98f);
      const auto divergence = [&](const WeightSource& source) {
        const TunedModel changed(*device_, pool_, source, options_, {});
        return EndTuner(*device_, source.config(), rope_, options_, changed, fp, 0)
            .divergence(ids_, windows);
      };
      Matrix<float> above(packed.layout.rows, packed.layout.cols);
      Matrix<float> below(packed.layout.rows, packed.layout.cols);
      dequantize(*larger->packed(name), above.span());
      dequantize(*smaller->packed(name), below.span());
      const Matrix<float>& d_weight =
          found.weights[static_cast<size_t>(layer)][static_cast<size_t>(linear.projection)];
      double expected = 0.0;
      for (int64_t i = 0; i < d_weight.size(); ++i) {
        expected += static_cast<double>(d_weight.data()[i]) *
                    (static_cast<double>(above.data()[i]) - static_cast<double>(below.data()[i]));
      }
      const double difference = tokens * (divergence(*larger) - divergence(*smaller));
      EXPECT_NEAR(difference, expected, 1e-3 + 0.02 * std::abs(expected)) << name;
    }
  }
}

TEST_F(EndTunerTest, KeptActivationsChangeNothing) {
  for (const char* family : {"qwen3", "opt"}) {
    SCOPED_TRACE(family);
    use(family);
    const auto stored = quantized();
    const EndTeacher fp = teacher();
    const TunedModel model(*device_, pool_, *stored, options_, {});
    const std::vector<int64_t> windows = {1, 2};
    const auto gradients = [&](int64_t kept_blocks) {
      return gradients_of(
          EndTuner(*device_, stored->config(), rope_, options_, model, fp, kept_blocks), windows);
    };
    const auto expect_equal = [](const Tensor& a, const Tensor& b) {
      EXPECT_TRUE(std::equal(a.data<float>(), a.data<float>() + a.size(), b.data<float>()));
    };
    const Collected none = gradients(0);
    for (const int64_t kept_blocks : {1, 2}) {
      const Collected some = gradients(kept_blocks);
      for (size_t layer = 0; layer < 2; ++layer) {
        for (size_t i = 0; i < kBlockLinears.size(); ++i) {
          EXPECT_TRUE(
              std::ranges::equal(none.weights[layer][i].span(), some.weights[layer][i].span()));
        }
        for (size_t i = 0; i < 2; ++i) {
          expect_equal(none.norms[layer][i].gain, some.norms[layer][i].gain);
          expect_equal(none.norms[layer][i].shift, some.norms[layer][i].shift);
        }
      }
      expect_equal(none.final_norm.gain, some.final_norm.gain);
    }
  }
}

TEST_F(EndTunerTest, LowersTheDivergenceAndStoresWhatItMeasured) {
  options_.samples = 34;
  options_.end_tune_steps = 30;
  options_.end_tune_windows = 6;
  options_.layers = {{"q_proj", 4, 0}, {"k_proj", 8, 0}};
  options_.keep = {"o_proj"};
  ids_ = test::random_ids(options_.samples * options_.sequence_length, 420);
  QuantizeOptions plain = options_;
  plain.end_tune_steps = 0;
  run("out", plain);
  const auto stored = open_model(out("out"));
  const EndTeacher fp = teacher();
  const TunedModel model(*device_, pool_, *stored, options_, end_tune_rates(options_));
  const EndTuner tuner(*device_, stored->config(), rope_, options_, model, fp, 1);
  std::vector<double> losses;
  const EndTuning tuning =
      tuner.tune(ids_, [&](int64_t, double divergence) { losses.push_back(divergence); });
  EXPECT_EQ(losses.size(), 30u);
  EXPECT_TRUE(tuning.accepted);
  EXPECT_LT(tuning.divergence_after, tuning.divergence_before);
  // Scales, gains and shifts of all but kept and 8-bit linears are others, codes are not.
  const auto shards = model.changed_tensors();
  ASSERT_EQ(shards.size(), 3u);
  std::vector<std::string> names;
  for (const ShardTensor& tensor : shards[1]) names.push_back(tensor.spec.name);
  const std::string block = "model.layers.1.";
  EXPECT_THAT(
      names, ::testing::UnorderedElementsAre(
                 block + "input_layernorm.weight", block + "input_layernorm.bias",
                 block + "post_attention_layernorm.weight", block + "post_attention_layernorm.bias",
                 block + "self_attn.q_proj.weight.scales", block + "self_attn.v_proj.weight.scales",
                 block + "mlp.gate_proj.weight.scales", block + "mlp.up_proj.weight.scales",
                 block + "mlp.down_proj.weight.scales"));
}

TEST_F(EndTunerTest, DoesWithoutShiftsWhereTheyMayNotBe) {
  options_.tune_shifts = false;
  options_.deviation_correction = false;
  const auto stored = quantized();
  const TunedModel model(*device_, pool_, *stored, options_, {});
  for (const auto& shard : model.changed_tensors()) {
    for (const ShardTensor& tensor : shard)
      EXPECT_FALSE(tensor.spec.name.ends_with("norm.bias")) << tensor.spec.name;
  }
  options_.tune_shifts = true;
  options_.final_correction = false;
  const TunedModel shifted(*device_, pool_, *stored, options_, {});
  EXPECT_TRUE(shifted.head().norm.shift.empty());
  EXPECT_FALSE(shifted.block(0).attention_norm.shift.empty());
}

TEST(EndTuning, IsForOneMethod) {
  QuantizeOptions options = preset_options("best");
  EXPECT_TRUE(tunes_end(options));
  options.method = QuantMethod::kGptq;
  EXPECT_FALSE(tunes_end(options));
  EXPECT_FALSE(tunes_end(preset_options("paper")));
  EXPECT_FALSE(tunes_end(preset_options("fast")));
}

}  // namespace
}  // namespace d2q
