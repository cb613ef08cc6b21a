// Several devices against one, on CPU devices with a thread each.
#include "quant/group_quantizer.h"

#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "kernels/testing/host_group.h"
#include "model/load_weights.h"
#include "quant/pipeline.h"
#include "quant/testing/tiny_model.h"

namespace d2q {
namespace {

class GroupQuantizerTest : public ::testing::Test {
 protected:
  GroupQuantizerTest() {
    options_ = preset_options("best");
    options_.group_size = 16;
    options_.samples = 5;
    options_.sequence_length = 24;
    options_.tune_steps = 2;
    options_.end_tune_steps = 0;
    options_.calibration = "none";
  }

  struct Result {
    QuantizedBlock block;
    std::vector<float> fp, quantized;
  };
  static std::vector<float> values_of(Device& device, const TokenRows& rows) {
    const Tensor all = rows.read(device, 0, rows.rows());
    return {all.data<float>(), all.data<float>() + all.size()};
  }
  void start(GroupQuantizer& quantizer) const {
    const auto fill = [&](const TokenRows& rows, int64_t first) {
      Rng rng(1);
      for (int64_t i = 0; i < first * rows.cols(); ++i) rng.gaussian();
      float* values = rows.tensor().data<float>();
      for (int64_t i = 0; i < rows.tensor().size(); ++i)
        values[i] = static_cast<float>(rng.gaussian());
    };
    quantizer.start_fp_stream(fill);
    quantizer.start_quantized_stream(fill);
  }
  QuantizedBlock quantize_block(DeviceGroup& group, std::vector<float>& fp,
                                const StreamPlacement& placement = {}) {
    GroupQuantizer quantizer(group, source_, options_, placement);
    start(quantizer);
    const NormParams norm =
        load_block(group.device(0), source_, 0, DType::kF32).mlp_norm;  // any norm will do
    QuantizedBlock block = quantizer.quantize(0, &norm, {});
    fp = values_of(group.device(0), quantizer.fp_stream());
    return block;
  }

  test::FakeWeights source_{test::tiny_config()};
  QuantizeOptions options_;
};

/// Share of the codes that differ.
double different_codes(const QuantizedBlock& a, const QuantizedBlock& b) {
  double different = 0.0, all = 0.0;
  for (size_t i = 0; i < a.linears.size(); ++i) {
    const std::vector<uint8_t>& x = a.linears[i].solution->codes;
    const std::vector<uint8_t>& y = b.linears[i].solution->codes;
    EXPECT_EQ(x.size(), y.size());
    for (size_t j = 0; j < x.size(); ++j) different += x[j] == y[j] ? 0.0 : 1.0;
    all += static_cast<double>(x.size());
  }
  return different / all;
}

TEST_F(GroupQuantizerTest, SeveralDevicesComeToWhatOneDoes) {
  for (const char* preset : {"best", "paper"}) {
    const QuantizeOptions changed = preset_options(preset);
    options_.refine = changed.refine;
    options_.sign_planes = changed.sign_planes;
    options_.tune_steps = changed.tune_steps > 0 ? 2 : 0;
    std::vector<float> fp, fp_of_one;
    ThreadPool pool(1);
    const auto device = make_cpu_device(pool);
    const QuantizedBlock one = quantize_block(*make_single_group(*device), fp_of_one);
    for (const int n : {2, 3}) {
      test::HostGroup group(n);
      const QuantizedBlock block = quantize_block(group, fp);
      EXPECT_EQ(fp, fp_of_one) << n;
      ASSERT_EQ(block.linears.size(), one.linears.size());
      // Sums over the windows are made in another order: a weight between two levels may fall to
      // either side.
      EXPECT_LT(different_codes(block, one), 0.02) << preset << " on " << n;
      for (size_t i = 0; i < one.linears.size(); ++i) {
        const LinearSolution& a = *one.linears[i].solution;
        const LinearSolution& b = *block.linears[i].solution;
        EXPECT_EQ(a.layout.rows, b.layout.rows);
        EXPECT_EQ(a.params.size(), b.params.size());
        EXPECT_EQ(a.column_scale.size(), b.column_scale.size());
        EXPECT_NEAR(b.output_energy / a.output_energy, 1.0, 1e-4) << one.linears[i].name;
        EXPECT_NEAR(b.relative_error / a.relative_error, 1.0, 0.02) << one.linears[i].name;
        EXPECT_NEAR(b.objective_before / a.objective_before, 1.0, 1e-3) << one.linears[i].name;
        ASSERT_EQ(a.stages.size(), b.stages.size());
        for (size_t j = 0; j < a.stages.size(); ++j)
          EXPECT_NEAR(b.stages[j].objective / a.stages[j].objective, 1.0, 0.02);
      }
      ASSERT_EQ(block.tuning.has_value(), one.tuning.has_value());
      if (one.tuning) {
        EXPECT_NEAR(block.tuning->loss_before / one.tuning->loss_before, 1.0, 0.05);
      }
      EXPECT_NEAR(block.deviation->mse_before / one.deviation->mse_before, 1.0, 0.02);
      EXPECT_NEAR(block.final_deviation->mse_before / one.final_deviation->mse_before, 1.0, 0.02);
    }
  }
}

TEST_F(GroupQuantizerTest, TheSameNumberOfDevicesGivesTheSameBits) {
  std::vector<float> fp;
  test::HostGroup group(2);
  const QuantizedBlock first = quantize_block(group, fp);
  StreamPlacement on_host;
  on_host.host.fill(true);
  for (const StreamPlacement& placement : {StreamPlacement(), on_host}) {
    const QuantizedBlock again = quantize_block(group, fp, placement);
    for (size_t i = 0; i < first.linears.size(); ++i) {
      EXPECT_EQ(again.linears[i].solution->codes, first.linears[i].solution->codes);
      EXPECT_EQ(again.linears[i].solution->params, first.linears[i].solution->params);
    }
  }
}

TEST_F(GroupQuantizerTest, AWholeRunResumesOnSeveralDevices) {
  const testing::TempFolder folder;
  const auto model = folder.path() / "model";
  test::write_tiny_model(model, test::tiny_config());
  const auto text = folder.path() / "text";
  std::ofstream(text) << test::tiny_text(8000);
  options_.calibration = text.string();
  options_.end_tune_steps = 2;
  test::HostGroup group(2);
  ThreadPool pool(1);
  const auto whole = quantize(model, folder.path() / "whole", options_, group, pool, {});
  EXPECT_EQ(whole.at("blocks").size(), 2u);
  EXPECT_EQ(whole.at("device").get<std::string>().substr(0, 4), "2 x ");
  // Stopped behind the first block.
  const auto output = folder.path() / "out";
  const auto stop = [](const ProgressEvent& progress) {
    if (progress.stage == "quantize" && progress.done == 1)
      fail(ErrorCode::kInterrupted, "stopped");
  };
  D2Q_EXPECT_ERROR(quantize(model, output, options_, group, pool, stop), ErrorCode::kInterrupted,
                   "stopped");
  options_.resume = true;
  const auto resumed = quantize(model, output, options_, group, pool, {});
  EXPECT_EQ(resumed.at("resumed_blocks"), 1);
  EXPECT_EQ(resumed.at("blocks"), whole.at("blocks"));
}

TEST_F(GroupQuantizerTest, AFailureOnOneDeviceEndsTheRun) {
  test::HostGroup group(3);
  GroupQuantizer quantizer(group, source_, options_, {});
  start(quantizer);
  const TokenRows stream = quantizer.fp_stream();
  // In a window of the last device, and named as one of all.
  const auto poison = [&](const TokenRows& rows, int64_t first) {
    for (int64_t i = 0; i < rows.tensor().size(); ++i) rows.tensor().data<float>()[i] = 1.0f;
    if (first <= 4 * 24 && 4 * 24 < first + rows.rows())
      rows.tensor().data<float>()[(4 * 24 - first) * rows.cols()] = NAN;
  };
  quantizer.start_fp_stream(poison);
  D2Q_EXPECT_ERROR(quantizer.quantize(0, nullptr, {}), ErrorCode::kNumeric, "window 4, token 0");
  options_.samples = 2;
  D2Q_EXPECT_ERROR(check_windows(options_, 3), ErrorCode::kInvalidArgument, "--gpus 3");
}

}  // namespace
}  // namespace d2q
