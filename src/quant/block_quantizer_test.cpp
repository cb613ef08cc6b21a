#include "quant/block_quantizer.h"

#include <limits>
#include <memory>

#include "base/testing/expect_error.h"
#include "quant/testing/reconstruct.h"
#include "quant/testing/tiny_model.h"

namespace d2q {
namespace {

class BlockQuantizerTest : public ::testing::Test {
 protected:
  BlockQuantizerTest() {
    options_.group_size = 16;
    options_.samples = 4;
    options_.sequence_length = 24;
    options_.calibration = "none";
  }

  Tensor stream(uint64_t seed = 1) {
    Rng rng(seed);
    const Tensor x = device_->allocate(4 * 24, 48, DType::kF32);
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = static_cast<float>(rng.gaussian());
    return x;
  }
  QuantizedBlock quantize(const Streams& streams) {
    const RopeTables rope = make_rope_tables(*device_, source_.config(), 24);
    BlockQuantizer quantizer(*device_, source_, options_, rope);
    return quantizer.quantize(0, streams, nullptr, {});
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  test::FakeWeights source_{test::tiny_config()};
  QuantizeOptions options_;
};

std::vector<float> values_of(const Tensor& x) {
  return {x.data<float>(), x.data<float>() + x.size()};
}

TEST_F(BlockQuantizerTest, ReplayMovesTheStreamsBitForBit) {
  for (const DType products : {DType::kF32, DType::kBF16}) {
    options_.products = products;
    const Streams streams{stream(), stream()};
    const std::vector<float> start = values_of(streams.quantized.tensor());
    const QuantizedBlock block = quantize(streams);
    const Streams again{stream(), stream()};
    const RopeTables rope = make_rope_tables(*device_, source_.config(), 24);
    BlockQuantizer(*device_, source_, options_, rope).replay(0, block.weights, again);
    EXPECT_NE(values_of(streams.quantized.tensor()), start);
    EXPECT_EQ(values_of(again.quantized.tensor()), values_of(streams.quantized.tensor()));
    EXPECT_EQ(values_of(again.fp.tensor()), values_of(streams.fp.tensor()));
  }
}

TEST_F(BlockQuantizerTest, ActivationsOnTheHostChangeNothing) {
  options_.tune_steps = 2;
  options_.sign_planes = true;
  options_.refine = true;
  device_->limit_chunk_tokens(24);  // four chunks
  const RopeTables rope = make_rope_tables(*device_, source_.config(), 24);
  std::vector<float> moved[2][2];
  std::vector<uint8_t> codes[2];
  for (const bool on_host : {false, true}) {
    StreamPlacement placement;
    placement.host.fill(on_host);
    const auto placed = [&](const Tensor& values) {
      const TokenRows rows(*device_, values.rows(), values.cols(), DType::kF32, on_host);
      device_->convert(values, rows.tensor());
      return rows;
    };
    const Streams streams{placed(stream()), placed(stream(2))};
    BlockQuantizer quantizer(*device_, source_, options_, rope, placement);
    const NormParams final_norm =
        load_block(*device_, source_, 0, DType::kF32).mlp_norm;  // any norm will do
    const QuantizedBlock block = quantizer.quantize(0, streams, &final_norm, {});
    ASSERT_TRUE(block.tuning);
    for (const StoredLinear& linear : block.linears) {
      codes[on_host].insert(codes[on_host].end(), linear.solution->codes.begin(),
                            linear.solution->codes.end());
    }
    quantizer.replay(1, load_block(*device_, source_, 1, DType::kF32), streams);
    moved[on_host][0] = values_of(streams.fp.tensor());
    moved[on_host][1] = values_of(streams.quantized.tensor());
  }
  EXPECT_EQ(moved[0][0], moved[1][0]);
  EXPECT_EQ(moved[0][1], moved[1][1]);
  EXPECT_EQ(codes[0], codes[1]);
}

TEST_F(BlockQuantizerTest, TheFullPrecisionStreamIsTheModelsOwn) {
  const Streams streams{stream(), stream(2)};
  quantize(streams);
  const Tensor x = stream();
  const RopeTables rope = make_rope_tables(*device_, source_.config(), 24);
  const BlockStages stages(*device_, source_.config(), rope, DType::kF32);
  const BlockWeights weights = load_block(*device_, source_, 0, DType::kF32);
  const Tensor h = device_->allocate(x.rows(), 48, DType::kF32);
  const Tensor a = device_->allocate(x.rows(), 6 * 16, DType::kF32);
  const Tensor m = device_->allocate(x.rows(), 80, DType::kF32);
  stages.attention_input(weights, x, h);
  stages.attention(weights, h, 24, a);
  stages.attention_output(weights, a, x);
  stages.mlp_input(weights, x, h);
  stages.mlp(weights, h, m);
  stages.mlp_output(weights, m, x);
  EXPECT_EQ(values_of(streams.fp.tensor()), values_of(x));
}

TEST_F(BlockQuantizerTest, TheColumnScaleIsAbsorbedBeforeTheBlockIsStored) {
  const QuantizedBlock block = quantize({stream(), stream()});
  ASSERT_EQ(block.linears.size(), 7u);
  EXPECT_EQ(block.linears.back().name, "model.layers.0.mlp.down_proj");
  const LinearSolution& down = *block.linears.back().solution;
  EXPECT_EQ(down.layout.kind, PackedKind::kSignPlanes);
  EXPECT_FALSE(down.has_column_scale);
  // What the streams ran is what the file will hold.
  const Matrix<float> stored = test::reconstruct(down);
  EXPECT_EQ(values_of(block.weights.down.dense),
            std::vector<float>(stored.data(), stored.data() + stored.size()));
}

TEST_F(BlockQuantizerTest, ActivationsThatOverflowNameTheBlock) {
  for (const bool in_fp : {true, false}) {
    const Streams streams{stream(), stream()};
    (in_fp ? streams.fp : streams.quantized).tensor().data<float>()[48 * 30] =
        std::numeric_limits<float>::quiet_NaN();
    D2Q_EXPECT_ERROR(quantize(streams), ErrorCode::kNumeric, in_fp ? "block 0" : "layers.0");
  }
}

TEST_F(BlockQuantizerTest, EachMethodAsksForTheStreamsItReads) {
  const auto needs = [&](QuantMethod method, double alpha) {
    options_.method = method;
    options_.alpha = alpha;
    return std::pair(BlockQuantizer::needs_statistics(options_),
                     BlockQuantizer::needs_fp_stream(options_));
  };
  EXPECT_EQ(needs(QuantMethod::kD2Quant, 0.25), std::pair(true, true));
  EXPECT_EQ(needs(QuantMethod::kGptaq, 0.25), std::pair(true, true));
  EXPECT_EQ(needs(QuantMethod::kGptaq, 0.0), std::pair(true, false));
  EXPECT_EQ(needs(QuantMethod::kGptq, 0.25), std::pair(true, false));
  EXPECT_EQ(needs(QuantMethod::kRtn, 0.25), std::pair(false, false));
}

}  // namespace
}  // namespace d2q
