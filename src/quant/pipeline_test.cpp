// Whole runs on a model of two small blocks: what is written, what can be resumed, what is refused.
#include "quant/pipeline.h"

#include <signal.h>
#include <sys/resource.h>

#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/file_io.h"
#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "model/transformer.h"
#include "quant/testing/tiny_model.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

/// The same model with every packed linear expanded, as the streams run it.
class Expanded final : public WeightSource {
 public:
  explicit Expanded(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override { return base_->has(name); }
  Matrix<float> load(const std::string& name) const override { return base_->load(name); }
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  std::shared_ptr<const WeightSource> base_;
};

/// The same model without the shifts of the norms before attention.
class WithoutInputShifts final : public WeightSource {
 public:
  explicit WithoutInputShifts(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override {
    return !name.ends_with("input_layernorm.bias") && base_->has(name);
  }
  Matrix<float> load(const std::string& name) const override { return base_->load(name); }
  std::optional<PackedView> packed(const std::string& name) const override {
    return base_->packed(name);
  }

 private:
  std::shared_ptr<const WeightSource> base_;
};

class PipelineTest : public ::testing::Test {
 protected:
  PipelineTest() {
    test::write_tiny_model(model_, test::tiny_config());
    options_.calibration = folder_.write("text.txt", test::tiny_text(4000)).string();
    options_.group_size = 16;
    options_.samples = 6;
    options_.sequence_length = 32;
  }

  nlohmann::json run(const std::string& name, const QuantizeOptions& options,
                     const ProgressSink& progress = {}) {
    return quantize(model_, out(name), options, *device_, pool_, progress);
  }
  fs::path out(const std::string& name) const { return folder_.path() / name; }

  /// The bytes of every file by name.
  std::map<std::string, std::string> files(const std::string& name) const {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::directory_iterator(out(name))) {
      result[entry.path().filename().string()] = read_file(entry.path(), 1 << 24);
    }
    return result;
  }

  Tensor logits(std::shared_ptr<const WeightSource> source) {
    const auto ids = test::random_ids(2 * 24, source->config().vocab_size);
    return Transformer(*device_, std::move(source), DType::kF32).forward(ids, 24);
  }
  double distance_from_model(const std::string& name) {
    return test::relative_difference(logits(open_model(out(name))), logits(open_model(model_)));
  }

  /// Throws when the run would start block `layer`.
  static ProgressSink stop_at_block(int64_t layer) {
    return [layer](const ProgressEvent& event) {
      if (event.stage == "quantize" && event.done == layer)
        fail(ErrorCode::kInterrupted, "stopped");
    };
  }

  testing::TempFolder folder_;
  fs::path model_ = folder_.path() / "model";
  QuantizeOptions options_;
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

class EveryRun : public PipelineTest,
                 public ::testing::WithParamInterface<std::tuple<QuantMethod, RotationKind>> {};

TEST_P(EveryRun, GivesAFolderThatRunsAsItsWeights) {
  const auto& [method, rotation] = GetParam();
  options_.method = method;
  options_.rotation = rotation;
  // 48 and 80 columns: whole and ragged groups.
  for (const auto& [bits, group_size] : {std::pair{2, 16}, {3, 32}, {4, 48}, {8, 32}, {2, 48}}) {
    const std::string name = std::to_string(bits) + "/" + std::to_string(group_size);
    SCOPED_TRACE(name);
    options_.bits = bits;
    options_.group_size = group_size;
    const nlohmann::json report = run(name, options_);
    EXPECT_EQ(report["blocks"].size(), 2u);
    EXPECT_GT(report["bits_per_weight"].get<double>(), bits);
    const std::shared_ptr<const WeightSource> packed = open_model(out(name));
    EXPECT_EQ(packed->format(), "d2quant");
    EXPECT_TRUE(packed->packed("model.layers.1.mlp.down_proj.weight"));
    // Packed products take inputs as 16-bit integers, off by up to 1.6e-5 of the largest: 14 of
    // them.
    EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
              5e-4);
    // 255 steps over about five deviations: a hundredth a linear, over 14 linears.
    if (bits == 8) {
      EXPECT_LE(distance_from_model(name), 0.1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Options, EveryRun,
    ::testing::Combine(::testing::Values(QuantMethod::kD2Quant, QuantMethod::kGptaq,
                                         QuantMethod::kGptq, QuantMethod::kRtn),
                       ::testing::Values(RotationKind::kBlock, RotationKind::kFull,
                                         RotationKind::kNone)));

TEST_F(PipelineTest, MoreBitsComeNearerToTheModel) {
  std::map<int, double> distance;
  for (const int bits : {2, 4, 8}) {
    options_.bits = bits;
    run(std::to_string(bits), options_);
    distance[bits] = distance_from_model(std::to_string(bits));
  }
  EXPECT_LT(distance[8], 0.3 * distance[4]);
  EXPECT_LT(distance[4], 0.6 * distance[2]);
}

TEST_F(PipelineTest, WritesTheSameBytesOnOneAndTwoThreads) {
  options_.sign_planes = true;
  options_.tune_steps = 6;
  run("two", options_);
  ThreadPool one(1);
  const auto device = make_cpu_device(one);
  quantize(model_, out("one"), options_, *device, one, {});
  EXPECT_EQ(files("one"), files("two"));
}

TEST_F(PipelineTest, AStoppedRunResumesToTheSameBytes) {
  options_.keep = {"layers\\.0.*up_proj"};
  QuantizeOptions refined = options_;
  refined.refine = refined.sign_planes = true;
  refined.refine_rounds = 1;
  QuantizeOptions tuned = refined;
  tuned.tune_steps = 6;
  QuantizeOptions mixed = refined;
  mixed.target_bits = 6.5;
  QuantizeOptions gptq = options_;
  gptq.method = QuantMethod::kGptq;
  QuantizeOptions rounded = options_;
  rounded.method = QuantMethod::kRtn;
  for (QuantizeOptions options : {options_, refined, tuned, mixed, gptq, rounded}) {
    options.overwrite = true;
    run("whole", options);
    for (const int64_t layer : {0, 1}) {
      options.resume = false;
      D2Q_EXPECT_ERROR(run("resumed", options, stop_at_block(layer)), ErrorCode::kInterrupted,
                       "stopped");
      options.resume = true;
      EXPECT_EQ(run("resumed", options)["resumed_blocks"], layer);
      EXPECT_EQ(files("resumed"), files("whole"));
      EXPECT_FALSE(fs::exists(out("resumed.partial")));
      options.resume = false;
    }
  }
}

TEST_F(PipelineTest, ARunStoppedBehindItsLastBlockResumes) {
  run("whole", options_);
  const auto stop = [](const ProgressEvent& event) {
    if (event.stage == "write") fail(ErrorCode::kInterrupted, "stopped");
  };
  D2Q_EXPECT_ERROR(run("resumed", options_, stop), ErrorCode::kInterrupted, "stopped");
  options_.resume = true;
  EXPECT_EQ(run("resumed", options_)["resumed_blocks"], 2);
  EXPECT_EQ(files("resumed"), files("whole"));
}

TEST_F(PipelineTest, RefusesToResumeWithOtherSettings) {
  D2Q_EXPECT_ERROR(run("out", options_, stop_at_block(1)), ErrorCode::kInterrupted, "stopped");
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "--resume");
  options_.resume = true;
  options_.alpha = 0.5;
  options_.seed = 1;
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "alpha");
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "calibration_hash");
}

TEST_F(PipelineTest, RefusesToResumeOnWeightsOfTheSameSize) {
  D2Q_EXPECT_ERROR(run("out", options_, stop_at_block(1)), ErrorCode::kInterrupted, "stopped");
  options_.resume = true;
  const fs::path weights = model_ / "model.safetensors";
  std::string bytes = read_file(weights, 1 << 24);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomically(weights, bytes);
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "differs in model");
}

TEST_F(PipelineTest, AnIdentityFileThatIsNoJsonOrTooDeepIsCorrupt) {
  D2Q_EXPECT_ERROR(run("out", options_, stop_at_block(1)), ErrorCode::kInterrupted, "stopped");
  options_.resume = true;
  const fs::path identity = out("out.partial") / "run.json";
  for (const std::string& content : {std::string("{"), std::string(100000, '[')}) {
    write_file_atomically(identity, content);
    D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kCorrupt, "run.json");
  }
}

TEST_F(PipelineTest, ReplacesAnExistingFolderOnlyWhenTold) {
  run("out", options_);
  const auto before = files("out");
  options_.bits = 3;
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "--overwrite");
  EXPECT_EQ(files("out"), before);
  options_.overwrite = true;
  run("out", options_);
  EXPECT_NE(files("out"), before);
  EXPECT_FALSE(fs::exists(out("out.old")));
  EXPECT_FALSE(fs::exists(out("out.partial")));
}

TEST_F(PipelineTest, ASlashBehindTheNameChangesNothing) {
  run("plain", options_);
  quantize(model_, out("slash") / "", options_, *device_, pool_, {});
  EXPECT_EQ(files("slash"), files("plain"));
}

TEST_F(PipelineTest, TheCorrectionLowersTheErrorThatItReports) {
  const nlohmann::json report = run("out", options_);
  for (const nlohmann::json& block : report["blocks"]) {
    EXPECT_LT(block["deviation"]["mse_after"], block["deviation"]["mse_before"]);
    EXPECT_EQ(block["deviation"]["channels"], 48);
  }
  const nlohmann::json& last = report["blocks"].back();
  EXPECT_LT(last["final_deviation"]["mse_after"], last["final_deviation"]["mse_before"]);
  const auto packed = open_model(out("out"));
  for (const char* norm : {"model.layers.0.post_attention_layernorm", "model.norm"}) {
    EXPECT_TRUE(packed->has(std::string(norm) + ".bias")) << norm;
  }
  options_.deviation_correction = false;
  EXPECT_FALSE(run("plain", options_)["blocks"][0].contains("deviation"));
  EXPECT_FALSE(open_model(out("plain"))->has("model.norm.bias"));
}

TEST_F(PipelineTest, TuningIsReportedAndItsShiftsAreRead) {
  options_.sign_planes = true;
  options_.samples = 24;
  EXPECT_FALSE(run("plain", options_)["blocks"][0].contains("tuning"));
  EXPECT_FALSE(open_model(out("plain"))->has("model.layers.0.input_layernorm.bias"));
  options_.tune_steps = 20;
  std::vector<std::string> details;
  const nlohmann::json report =
      run("tuned", options_, [&](const ProgressEvent& event) { details.push_back(event.detail); });
  EXPECT_THAT(details, ::testing::Contains(::testing::StartsWith("block 2/2 tune 20/20 loss ")));
  for (const nlohmann::json& block : report["blocks"]) {
    const nlohmann::json& tuning = block["tuning"];
    EXPECT_EQ(tuning["steps"], 20);
    EXPECT_TRUE(tuning["accepted"]);
    EXPECT_LT(tuning["loss_after"], tuning["loss_before"]);
  }
  EXPECT_GT(report["timings"][1]["tune_seconds"].get<double>(), 0.0);
  EXPECT_EQ(report["settings"]["tune_steps"], 20);
  const std::shared_ptr<const WeightSource> packed = open_model(out("tuned"));
  const Tensor tuned = logits(packed);
  EXPECT_LE(test::relative_difference(tuned, logits(std::make_shared<Expanded>(packed))), 5e-4);
  // 20 steps of 1e-3, falling, on norms of size 1.
  EXPECT_GT(test::relative_difference(logits(std::make_shared<WithoutInputShifts>(packed)), tuned),
            1e-3);
}

TEST_F(PipelineTest, RefusesToResumeWithOtherTuning) {
  options_.sign_planes = true;
  options_.tune_steps = 2;
  D2Q_EXPECT_ERROR(run("out", options_, stop_at_block(1)), ErrorCode::kInterrupted, "stopped");
  options_.resume = true;
  options_.tune_steps = 3;
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "tune_steps");
  options_.tune_steps = 2;
  options_.tune_windows = 1;
  D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "tune_windows");
}

TEST_F(PipelineTest, ThePlanCountsTuning) {
  options_.sign_planes = true;
  const QuantizePlan plain = plan_quantization(model_, options_);
  options_.tune_steps = 10;
  const QuantizePlan ten = plan_quantization(model_, options_);
  options_.tune_steps = 20;
  const QuantizePlan twenty = plan_quantization(model_, options_);
  EXPECT_GE(ten.peak_memory_bytes, plain.peak_memory_bytes + options_.samples * 32 * 48 * 4);
  EXPECT_EQ(twenty.peak_memory_bytes, ten.peak_memory_bytes);
  // Ten steps of two windows: two products with every weight of both blocks forward and, of all
  // tuned, four backward; attention over 32 tokens.
  const double weights = 48.0 * (96 + 32 + 32) + 96.0 * 48 + 3.0 * 48 * 80;
  const double attention = 3.5 * 2.0 * 32 * 96;
  EXPECT_DOUBLE_EQ(twenty.floor_flops - ten.floor_flops,
                   10.0 * 2 * 32 * 2 * (6.0 * weights + attention));
  options_.bits = 4;
  options_.tune_steps = 0;
  const double uniform = plan_quantization(model_, options_).floor_flops;
  options_.tune_steps = 20;
  EXPECT_EQ(plan_quantization(model_, options_).floor_flops, uniform);
}

TEST_F(PipelineTest, SolvedLinearsAreNearerThanRoundedOnes) {
  const nlohmann::json report = run("out", options_);
  for (const nlohmann::json& block : report["blocks"]) {
    EXPECT_EQ(block["linears"].size(), 7u);
    for (const nlohmann::json& linear : block["linears"]) {
      EXPECT_LT(linear["objective_after"], linear["objective_before"]) << linear["name"];
      EXPECT_EQ(linear["grid"],
                linear["name"].get<std::string>().ends_with("down_proj") ? "planes" : "uniform");
    }
  }
}

TEST_F(PipelineTest, KeptLinearsStayInF16AndOverridesApply) {
  options_.rotation = RotationKind::kNone;
  options_.keep = {"layers\\.1\\.self_attn\\.q_proj"};
  options_.layers = {{"v_proj", 8, 48}};
  run("out", options_);
  const auto packed = open_model(out("out"));
  const std::string kept = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_FALSE(packed->packed(kept));
  const Matrix<float> stored = packed->load(kept);
  const Matrix<float> original = open_model(model_)->load(kept);
  for (int64_t i = 0; i < stored.size(); ++i)
    EXPECT_EQ(stored.data()[i], to_float(to_half(original.data()[i])));
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.v_proj.weight")->layout.bits, 8);
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.v_proj.weight")->layout.group_size, 48);
  EXPECT_EQ(packed->packed("model.layers.0.self_attn.q_proj.weight")->layout.bits, 2);
}

TEST_F(PipelineTest, MixedBitsStayBelowTheirTargetAndComeNearerToTheModel) {
  options_.sign_planes = true;
  options_.bits = 3;  // 2 leave nothing of so small a model
  options_.group_size = 48;
  const double uniform = run("uniform", options_)["bits_per_weight"];
  options_.target_bits = uniform + 0.6;
  const nlohmann::json report = run("mixed", options_);
  EXPECT_LE(report["bits_per_weight"].get<double>(), options_.target_bits);
  EXPECT_GT(report["bits_per_weight"].get<double>(), uniform + 0.3);
  std::map<int, int> count;
  for (const nlohmann::json& block : report["blocks"]) {
    for (const nlohmann::json& linear : block["linears"]) {
      const std::string name = linear["name"];
      EXPECT_EQ(linear["bits"], report["settings"]["allocated_bits"][name]);
      ++count[linear["bits"]];
    }
  }
  EXPECT_GT(count[3], 0);
  EXPECT_GT(count[4], 0);
  EXPECT_LT(distance_from_model("mixed"), distance_from_model("uniform"));
  EXPECT_NEAR(plan_quantization(model_, options_).bits_per_weight, options_.target_bits, 0.01);
}

TEST_F(PipelineTest, EmbeddingAndHeadArePackedWhenAskedTo) {
  options_.bits = 8;
  options_.rotation = RotationKind::kBlock;
  run("whole", options_);
  for (const int bits : {4, 8}) {
    SCOPED_TRACE(bits);
    options_.embed_bits = bits;
    options_.head_bits = 12 - bits;
    const std::string name = std::to_string(bits);
    run(name, options_);
    const std::shared_ptr<const WeightSource> packed = open_model(out(name));
    const auto embedding = packed->packed("model.embed_tokens.weight");
    const auto head = packed->packed("lm_head.weight");
    ASSERT_TRUE(embedding && head);
    EXPECT_EQ(embedding->layout.bits, bits);
    EXPECT_EQ(head->layout.bits, 12 - bits);
    // Integers of 16 bits for activations; the embedding's rows are the same either way.
    EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
              5e-4);
    // 15 steps over about five deviations are off by a tenth of a weight, in one of the two
    // matrices; an error of the embedding may grow on its way through the blocks.
    EXPECT_LE(distance_from_model(name), distance_from_model("whole") + 0.4);
  }
}

TEST_F(PipelineTest, ATiedHeadHasTheBitsOfTheEmbedding) {
  ModelConfig config = test::tiny_config();
  config.tied_embeddings = true;
  test::write_tiny_model(model_, config);
  options_.rotation = RotationKind::kNone;
  options_.embed_bits = 8;
  EXPECT_THROW(run("different", options_), Error);
  options_.head_bits = 8;
  run("same", options_);
  const std::shared_ptr<const WeightSource> packed = open_model(out("same"));
  EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
            5e-4);
}

TEST_F(PipelineTest, EveryLinearKeptIsTheModelInF16) {
  options_.keep = {"."};
  options_.deviation_correction = false;
  run("out", options_);
  // Weights to 2^-11, through 14 linears.
  EXPECT_LE(distance_from_model("out"), 0.01);
}

TEST_F(PipelineTest, ProductsInBf16GiveAModelAsGood) {
  options_.bits = 4;
  run("f32", options_);
  options_.products = DType::kBF16;
  run("bf16", options_);
  EXPECT_NE(files("bf16"), files("f32"));
  EXPECT_LE(distance_from_model("bf16"), 1.5 * distance_from_model("f32"));
}

TEST_F(PipelineTest, EveryFamilyIsQuantizedTunedAndRunsAsItsWeights) {
  options_ = [&] {
    QuantizeOptions best = preset_options("best");
    best.calibration = options_.calibration;
    best.group_size = 16;
    best.samples = 6;
    best.sequence_length = 32;
    best.refine_rounds = 1;
    best.tune_steps = 4;
    best.overwrite = true;
    return best;
  }();
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    fs::remove_all(model_);
    test::write_tiny_model(model_, test::tiny_config(std::string(family.name)));
    options_.bits = 3;
    const nlohmann::json report = run("out", options_);
    for (const nlohmann::json& block : report["blocks"]) {
      EXPECT_EQ(block["linears"].size(), family.gated_mlp ? 7u : 6u);
      EXPECT_TRUE(block.contains("tuning"));
    }
    const std::shared_ptr<const WeightSource> packed = open_model(out("out"));
    EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
              5e-4);
    options_.bits = 8;
    run("out", options_);
    EXPECT_LE(distance_from_model("out"), 0.1);
  }
}

TEST_F(PipelineTest, BiasesTiedHeadsAndHeadNormsAreCarriedOver) {
  for (const char* family : {"qwen2", "qwen3"}) {
    for (const RotationKind rotation : {RotationKind::kBlock, RotationKind::kNone}) {
      fs::remove_all(model_);
      ModelConfig config = test::tiny_config(family);
      config.tied_embeddings = true;
      test::write_tiny_model(model_, config);
      options_.bits = 8;
      options_.rotation = rotation;
      options_.overwrite = true;
      run("out", options_);
      EXPECT_EQ(open_model(out("out"))->config().tied_embeddings, rotation == RotationKind::kNone);
      EXPECT_LE(distance_from_model("out"), 0.1) << family;
    }
  }
}

TEST_F(PipelineTest, AnOutputThatCannotBeMadeIsAnIoError) {
  folder_.write("file", "not a folder");
  D2Q_EXPECT_ERROR(quantize(model_, out("file") / "out", options_, *device_, pool_, {}),
                   ErrorCode::kIo, "out");
}

TEST_F(PipelineTest, AFullDiskIsAnIoErrorAndTheRunResumes) {
  run("whole", options_);
  rlimit saved{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &saved), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  // Enough for config.json and the identity, not for a block.
  const rlimit small{8192, saved.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    run("out", options_);
  } catch (const Error& error) {
    message = error.code() == ErrorCode::kIo ? error.what() : "another code";
  }
  setrlimit(RLIMIT_FSIZE, &saved);
  signal(SIGXFSZ, handler);
  EXPECT_THAT(message, ::testing::HasSubstr("model-00001-of-00003.safetensors"));
  EXPECT_FALSE(fs::exists(out("out")));
  options_.resume = true;
  run("out", options_);
  EXPECT_EQ(files("out"), files("whole"));
}

TEST_F(PipelineTest, AQuantizedModelIsRefused) {
  run("out", options_);
  D2Q_EXPECT_ERROR(quantize(out("out"), out("again"), options_, *device_, pool_, {}),
                   ErrorCode::kInvalidArgument, "quantized already");
}

}  // namespace
}  // namespace d2q
