#include "quant/block_tuner.h"

#include <gtest/gtest.h>

#include <memory>

#include "quant/block_quantizer.h"
#include "quant/testing/tiny_model.h"
#include "quant/window_order.h"

namespace d2q {
namespace {

constexpr int64_t kHidden = 48;

std::vector<float> values_of(const Tensor& x) {
  return {x.data<float>(), x.data<float>() + x.size()};
}

class BlockTunerTest : public ::testing::Test {
 protected:
  BlockTunerTest() {
    options_ = preset_options("fast");
    options_.group_size = 16;
    options_.samples = 66;
    options_.sequence_length = 24;
    options_.calibration = "none";
    options_.tune_steps = 25;
    options_.tune_windows = 8;
  }

  int64_t n_tokens() const { return options_.samples * options_.sequence_length; }
  Tensor stream() {
    Rng rng(1);
    const Tensor x = device_->allocate(n_tokens(), kHidden, DType::kF32);
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = static_cast<float>(rng.gaussian());
    return x;
  }
  QuantizedBlock quantize(const Streams& streams) {
    const RopeTables rope = make_rope_tables(*device_, source_.config(), options_.sequence_length);
    return BlockQuantizer(*device_, source_, options_, rope).quantize(0, streams, nullptr, {});
  }
  QuantizedBlock quantize() { return quantize({stream(), stream()}); }

  /// Mean squared distance of the streams on the held-out windows.
  double held_out_distance(const Streams& streams) const {
    const int64_t count = held_out_windows(options_.samples) * options_.sequence_length * kHidden;
    const int64_t first = n_tokens() * kHidden - count;
    double sum = 0.0;
    for (int64_t i = first; i < first + count; ++i) {
      const double difference = static_cast<double>(streams.quantized.tensor().data<float>()[i]) -
                                static_cast<double>(streams.fp.tensor().data<float>()[i]);
      sum += difference * difference;
    }
    return sum / static_cast<double>(count);
  }
  static const LinearSolution& solution_of(const QuantizedBlock& block, const std::string& name) {
    for (const StoredLinear& linear : block.linears) {
      if (linear.name.ends_with(name)) return *linear.solution;
    }
    throw InternalError("no " + name);
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  test::FakeWeights source_{test::tiny_config()};
  QuantizeOptions options_;
};

TEST_F(BlockTunerTest, LowersTheDistanceOfTheStreamsAsItSays) {
  for (const int bits : {2, 3}) {
    options_.bits = bits;
    const Streams tuned{stream(), stream()};
    const QuantizedBlock block = quantize(tuned);
    ASSERT_TRUE(block.tuning);
    EXPECT_EQ(block.tuning->steps, 25);
    EXPECT_TRUE(block.tuning->accepted);
    EXPECT_LT(block.tuning->loss_after, block.tuning->loss_before);
    // The stream was moved by the weights as stored.
    EXPECT_NEAR(held_out_distance(tuned), block.tuning->loss_after,
                1e-5 * block.tuning->loss_after);
    QuantizeOptions options = options_;
    options_.tune_steps = 0;
    const Streams plain{stream(), stream()};
    EXPECT_FALSE(quantize(plain).tuning);
    EXPECT_NEAR(held_out_distance(plain), block.tuning->loss_before,
                1e-5 * block.tuning->loss_before);
    options_ = options;
  }
}

TEST_F(BlockTunerTest, ChangesScalesAndNormsButNoOtherLinear) {
  options_.layers = {{"v_proj", 8, 0}, {"gate_proj", 4, 0}};
  options_.keep = {"o_proj"};
  const QuantizedBlock tuned = quantize();
  ASSERT_TRUE(tuned.tuning && tuned.tuning->accepted);
  options_.tune_steps = 0;
  const QuantizedBlock plain = quantize();
  for (const char* name : {"v_proj", "gate_proj"}) {
    EXPECT_EQ(solution_of(tuned, name).params, solution_of(plain, name).params) << name;
    EXPECT_EQ(solution_of(tuned, name).codes, solution_of(plain, name).codes) << name;
  }
  EXPECT_EQ(values_of(tuned.weights.o.dense), values_of(plain.weights.o.dense));
  for (const char* name : {"q_proj", "k_proj", "up_proj", "down_proj"}) {
    EXPECT_NE(solution_of(tuned, name).params, solution_of(plain, name).params) << name;
    for (const float scale : solution_of(tuned, name).params)
      EXPECT_EQ(scale, to_float(to_half(scale)));
  }
  EXPECT_TRUE(plain.weights.attention_norm.shift.empty());
  EXPECT_FALSE(tuned.weights.attention_norm.shift.empty());
  EXPECT_NE(values_of(tuned.weights.mlp_norm.shift), values_of(plain.weights.mlp_norm.shift));
  EXPECT_NE(values_of(tuned.weights.mlp_norm.gain), values_of(plain.weights.mlp_norm.gain));
}

TEST_F(BlockTunerTest, ABlockThatOnlyGetsWorseStaysAsItIs) {
  const QuantizedBlock block = quantize();
  const RopeTables rope = make_rope_tables(*device_, source_.config(), options_.sequence_length);
  const BlockBackward forward(*device_, source_.config(), rope, options_.products,
                              options_.sequence_length);
  const Tensor input = stream();
  // Its own output on the held-out windows, and on the others one that leads away from it.
  const Tensor target = forward.forward(block.weights, input).y;
  const int64_t n_training = options_.samples - held_out_windows(options_.samples);
  for (int64_t i = 0; i < n_training * options_.sequence_length * kHidden; ++i)
    target.data<float>()[i] += 1.0f;
  BlockWeights weights = block.weights;
  std::vector<LinearSolution> solutions;
  for (const StoredLinear& linear : block.linears) solutions.push_back(*linear.solution);
  TunedSolutions tuned{};
  tuned[static_cast<size_t>(Projection::kDown)] = &solutions.back();
  const BlockTuner tuner(*device_, source_.config(), rope, options_);
  const BlockTuning result = tuner.tune(0, input, target, weights, tuned, {});
  EXPECT_FALSE(result.accepted);
  EXPECT_EQ(result.loss_before, 0.0);
  EXPECT_GT(result.loss_after, 0.0);
  EXPECT_EQ(solutions.back().params, block.linears.back().solution->params);
  EXPECT_EQ(solutions.back().codes, block.linears.back().solution->codes);
  EXPECT_EQ(weights.mlp_norm.gain.raw(), block.weights.mlp_norm.gain.raw());
}

TEST_F(BlockTunerTest, ARejectedBlockIsTheUntunedOne) {
  // Steps so wide that nothing good can come of them: one window to learn from, one to tell.
  options_.samples = 2;
  options_.tune_windows = 1;
  options_.tune_steps = 400;
  const Streams streams{stream(), stream()};
  const QuantizedBlock tuned = quantize(streams);
  ASSERT_TRUE(tuned.tuning);
  if (tuned.tuning->accepted) GTEST_SKIP() << "tuning on one window generalised";
  options_.tune_steps = 0;
  const Streams plain_streams{stream(), stream()};
  const QuantizedBlock plain = quantize(plain_streams);
  EXPECT_EQ(values_of(streams.quantized.tensor()), values_of(plain_streams.quantized.tensor()));
  for (size_t i = 0; i < plain.linears.size(); ++i)
    EXPECT_EQ(tuned.linears[i].solution->params, plain.linears[i].solution->params);
}

TEST_F(BlockTunerTest, ReplayMovesTheStreamsBitForBit) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    options_.products = products;
    const Streams streams{stream(), stream()};
    const QuantizedBlock block = quantize(streams);
    ASSERT_TRUE(block.tuning->accepted);
    const Streams again{stream(), stream()};
    const RopeTables rope = make_rope_tables(*device_, source_.config(), options_.sequence_length);
    BlockQuantizer(*device_, source_, options_, rope).replay(0, block.weights, again);
    EXPECT_EQ(values_of(again.quantized.tensor()), values_of(streams.quantized.tensor()));
  }
}

TEST_F(BlockTunerTest, BlocksWithoutSignPlanesAreNotTuned) {
  const ModelConfig& config = source_.config();
  EXPECT_TRUE(tunes_block(options_, config, 0));
  options_.bits = 4;
  EXPECT_FALSE(tunes_block(options_, config, 0));
  EXPECT_FALSE(quantize().tuning);
  options_.layers = {{"layers\\.1\\..*o_proj", 3, 0}};
  EXPECT_FALSE(tunes_block(options_, config, 0));
  EXPECT_TRUE(tunes_block(options_, config, 1));
  options_.keep = {"o_proj"};
  EXPECT_FALSE(tunes_block(options_, config, 1));
  options_ = preset_options("best");
  options_.method = QuantMethod::kGptaq;
  EXPECT_FALSE(tunes_block(options_, config, 0));
}

TEST_F(BlockTunerTest, ASixteenthOfTheWindowsIsHeldOut) {
  EXPECT_EQ(held_out_windows(2), 1);
  EXPECT_EQ(held_out_windows(64), 4);
  EXPECT_EQ(held_out_windows(128), 8);
}

TEST_F(BlockTunerTest, FamiliesWithBiasesAndHeadNormsAreTuned) {
  for (const char* family : {"qwen2", "qwen3"}) {
    source_ = test::FakeWeights(test::tiny_config(family));
    const QuantizedBlock block = quantize();
    ASSERT_TRUE(block.tuning) << family;
    EXPECT_TRUE(block.tuning->accepted) << family;
  }
}

}  // namespace
}  // namespace d2q
