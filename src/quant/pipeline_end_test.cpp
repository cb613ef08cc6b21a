// Whole runs with tuning at the end: what it changes, and that stopping it does not.
#include "kernels/gradient_ops.h"
#include "model/transformer.h"
#include "quant/calibration.h"
#include "quant/pipeline.h"
#include "quant/testing/pipeline_fixture.h"
#include "quant/window_order.h"
#include "text/tokenizer.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using test::Expanded;

class EndTuningRun : public test::PipelineTest {
 protected:
  EndTuningRun() {
    options_.sign_planes = true;
    options_.samples = 24;
    options_.end_tune_steps = 12;
    options_.end_tune_windows = 4;
  }

  /// Throws at the step, or at the n-th event of the stage "write".
  static ProgressSink stop_at_step(int64_t step) {
    return [step](const ProgressEvent& event) {
      if (event.stage == "tune" && event.done == step) fail(ErrorCode::kInterrupted, "stopped");
    };
  }
  static ProgressSink stop_at_write(int n) {
    return [n, seen = 0](const ProgressEvent& event) mutable {
      if (event.stage == "write" && ++seen == n) fail(ErrorCode::kInterrupted, "stopped");
    };
  }

  /// KL(model ‖ folder) of the next token, the mean over the last windows.
  double held_out_divergence(const std::string& name) {
    const std::vector<int32_t> ids =
        sample_windows(read_calibration_text(options_.calibration), "text", *load_tokenizer(model_),
                       options_.samples, options_.sequence_length, options_.seed)
            .ids;
    const auto count =
        static_cast<size_t>(held_out_windows(options_.samples) * options_.sequence_length);
    const std::span<const int32_t> last(ids.data() + ids.size() - count, count);
    const auto logits = [&](std::shared_ptr<const WeightSource> source) {
      return Transformer(*device_, std::move(source), DType::kF32)
          .forward(last, options_.sequence_length);
    };
    const Tensor expected = logits(open_model(model_));
    const Tensor found = logits(std::make_shared<Expanded>(open_model(out(name))));
    return device_->gradients().divergence(expected, found, 1.0f, found) /
           static_cast<double>(count);
  }
};

TEST_F(EndTuningRun, BringsTheFolderNearerToTheModelByWhatItReports) {
  for (const RotationKind rotation : {RotationKind::kNone, RotationKind::kBlock}) {
    options_.rotation = rotation;
    options_.overwrite = true;
    QuantizeOptions plain = options_;
    plain.end_tune_steps = 0;
    EXPECT_FALSE(run("plain", plain).contains("end_tuning"));
    const nlohmann::json report = run("tuned", options_);
    const nlohmann::json& tuning = report["end_tuning"];
    EXPECT_TRUE(tuning["accepted"]);
    EXPECT_EQ(tuning["steps"], 12);
    const double before = tuning["divergence_before"], after = tuning["divergence_after"];
    EXPECT_LT(after, before);
    // Logits within some 1e-5 of each other.
    EXPECT_NEAR(held_out_divergence("plain"), before, 1e-3 * before);
    EXPECT_NEAR(held_out_divergence("tuned"), after, 1e-3 * after);
    EXPECT_FALSE(fs::exists(out("tuned") / "end_tuning.safetensors"));
  }
}

TEST_F(EndTuningRun, ResumesToTheSameBytesWhereverItWasStopped) {
  options_.rotation = RotationKind::kBlock;
  run("whole", options_);
  for (const ProgressSink& stop : {stop_at_step(0), stop_at_step(5), stop_at_step(12),
                                   stop_at_write(1), stop_at_write(2), stop_at_block(1)}) {
    options_.resume = false;
    D2Q_EXPECT_ERROR(run("resumed", options_, stop), ErrorCode::kInterrupted, "stopped");
    options_.resume = true;
    run("resumed", options_);
    EXPECT_EQ(files("resumed"), files("whole"));
    fs::remove_all(out("resumed"));
  }
}

TEST_F(EndTuningRun, ResumesAmongItsReplacements) {
  run("whole", options_);
  for (const char* shard :
       {"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"}) {
    options_.resume = false;
    D2Q_EXPECT_ERROR(run("resumed", options_, stop_at_write(2)), ErrorCode::kInterrupted,
                     "stopped");
    // As if one of the shards had been replaced by then.
    fs::copy_file(out("whole") / shard, out("resumed.partial") / shard,
                  fs::copy_options::overwrite_existing);
    options_.resume = true;
    run("resumed", options_, [](const ProgressEvent& event) { EXPECT_NE(event.stage, "tune"); });
    EXPECT_EQ(files("resumed"), files("whole"));
    fs::remove_all(out("resumed"));
  }
}

TEST_F(EndTuningRun, WritesTheSameBytesOnOneAndTwoThreads) {
  options_.tune_steps = 2;
  options_.products = DType::kBF16;
  options_.head_bits = 8;
  run("two", options_);
  ThreadPool one(1);
  const auto device = make_cpu_device(one);
  quantize(model_, out("one"), options_, *device, one, {});
  EXPECT_EQ(files("one"), files("two"));
}

TEST_F(EndTuningRun, AWorseModelIsNotTaken) {
  // Steps as large as the scales themselves.
  options_.end_tune_rate = 1.0;
  const nlohmann::json report = run("refused", options_);
  EXPECT_FALSE(report["end_tuning"]["accepted"]);
  EXPECT_GE(report["end_tuning"]["divergence_after"], report["end_tuning"]["divergence_before"]);
  options_.end_tune_steps = 0;
  run("plain", options_);
  auto refused = files("refused"), plain = files("plain");
  EXPECT_NE(refused["d2quant.json"], plain["d2quant.json"]);
  refused.erase("d2quant.json");
  plain.erase("d2quant.json");
  EXPECT_EQ(refused, plain);
}

TEST_F(EndTuningRun, KeepsAPortableGridPortable) {
  options_.sign_planes = false;
  options_.portable_grid = true;
  options_.group_size = 64;
  options_.deviation_correction = options_.tune_shifts = false;
  EXPECT_TRUE(run("out", options_)["end_tuning"]["accepted"]);
  const auto packed = open_model(out("out"));
  const PackedView view = *packed->packed("model.layers.0.self_attn.q_proj.weight");
  std::vector<uint8_t> codes(static_cast<size_t>(view.layout.rows * view.layout.cols));
  std::vector<float> params(static_cast<size_t>(view.layout.rows * view.layout.n_groups() * 2));
  unpack(view, codes, params);
  for (size_t i = 1; i < params.size(); i += 2) EXPECT_TRUE(params[i] == 1.0f || params[i] == 2.0f);
  EXPECT_FALSE(packed->has("model.norm.bias"));
}

TEST_F(EndTuningRun, RefusesToResumeWithOtherSteps) {
  D2Q_EXPECT_ERROR(run("out", options_, stop_at_step(3)), ErrorCode::kInterrupted, "stopped");
  options_.resume = true;
  options_.end_tune_steps = 13;
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "end_tune_steps");
}

TEST_F(EndTuningRun, IsCountedByThePlan) {
  const QuantizePlan twelve = plan_quantization(model_, options_);
  options_.end_tune_steps = 24;
  const QuantizePlan more = plan_quantization(model_, options_);
  EXPECT_EQ(more.peak_memory_bytes, twelve.peak_memory_bytes);
  // Twelve steps of four windows of 32: two forwards, the gradients of inputs and of weights;
  // attention over 32 tokens; both heads and one's gradient. One block's activations are kept, and
  // its second forward saved.
  EXPECT_EQ(twelve.end_tune_kept_blocks, 1);
  const double weights = 48.0 * (96 + 32 + 32) + 96.0 * 48 + 3.0 * 48 * 80;
  const double attention = 2.0 * 32 * 96;
  const double saved = 2.0 * weights + attention;
  EXPECT_DOUBLE_EQ(
      more.floor_flops - twelve.floor_flops,
      12.0 * 4 * 32 * (2 * (8.0 * weights + 4.5 * attention) + 6.0 * 420 * 48 - saved));
}

}  // namespace
}  // namespace d2q
