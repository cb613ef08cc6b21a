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
#include "quant/testing/pipeline_fixture.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using test::Expanded;
using test::PipelineTest;
using test::WithoutInputShifts;

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

TEST_F(PipelineTest, WhatAKilledRunWasWritingIsNotInTheResult) {
  run("whole", options_);
  D2Q_EXPECT_ERROR(run("resumed", options_, stop_at_block(1)), ErrorCode::kInterrupted, "stopped");
  write_file_atomically(out("resumed.partial") / "model-00002-of-00003.safetensors.tmp.4711",
                        "cut");
  options_.resume = true;
  run("resumed", options_);
  EXPECT_EQ(files("resumed"), files("whole"));
}

TEST_F(PipelineTest, NothingButAnUnfinishedRunIsRemovedOrResumed) {
  options_.overwrite = true;
  fs::create_directories(out("out.partial"));
  write_file_atomically(out("out.partial") / "notes.txt", "mine");
  for (const bool resume : {false, true}) {
    options_.resume = resume;
    D2Q_EXPECT_ERROR(run("out", options_), ErrorCode::kInvalidArgument, "in the way");
  }
  EXPECT_EQ(read_file(out("out.partial") / "notes.txt", 100), "mine");
  // Killed before the identity was written.
  fs::remove(out("out.partial") / "notes.txt");
  write_file_atomically(out("out.partial") / "config.json", "{");
  run("out", options_);
}

TEST_F(PipelineTest, WhatMakesTheModelCompleteHappensBeforeItHasItsName) {
  const auto group = make_single_group(*device_);
  const auto write_card = [&](const fs::path& folder, nlohmann::json& report) {
    EXPECT_FALSE(fs::exists(out("out")));
    EXPECT_EQ(open_model(folder)->format(), "d2quant");
    write_file_atomically(folder / "README.md", "card");
    report["sanity"] = "checked";
  };
  const auto stop = [](const fs::path&, nlohmann::json&) {
    fail(ErrorCode::kInterrupted, "stopped");
  };
  const auto run_with = [&](const BeforePublishing& work) {
    return quantize(model_, out("out"), options_, *group, pool_, {}, work);
  };
  D2Q_EXPECT_ERROR(run_with(stop), ErrorCode::kInterrupted, "stopped");
  EXPECT_FALSE(fs::exists(out("out")));
  options_.resume = true;
  EXPECT_EQ(run_with(write_card)["sanity"], "checked");
  EXPECT_TRUE(fs::exists(out("out") / "README.md"));
  EXPECT_FALSE(fs::exists(out("out") / "run.json"));
}

TEST_F(PipelineTest, APatternThatMatchesNothingIsRefused) {
  QuantizeOptions kept = options_;
  kept.keep = {"down_proj", "lm_head"};
  D2Q_EXPECT_ERROR(run("out", kept), ErrorCode::kInvalidArgument, "--keep lm_head");
  QuantizeOptions other = options_;
  other.layers = {{"layers\\.7\\.", 3, 0}};
  D2Q_EXPECT_ERROR(plan_quantization(model_, other), ErrorCode::kInvalidArgument, "--layer");
  EXPECT_FALSE(fs::exists(out("out.partial")));
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
  fs::create_directory(out("out.old"));  // somebody's copy
  run("out", options_);
  EXPECT_NE(files("out"), before);
  EXPECT_TRUE(fs::exists(out("out.old")));
  EXPECT_FALSE(fs::exists(out("out.partial.old")));
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

TEST_F(PipelineTest, EveryFamilyIsQuantizedTunedAndRunsAsItsWeights) {
  options_ = [&] {
    QuantizeOptions best = preset_options("best");
    best.calibration = options_.calibration;
    best.group_size = 16;
    best.samples = 6;
    best.sequence_length = 32;
    best.refine_rounds = 1;
    best.tune_steps = 4;
    best.end_tune_steps = 3;
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
    EXPECT_EQ(report["end_tuning"]["steps"], 3);
    const std::shared_ptr<const WeightSource> packed = open_model(out("out"));
    EXPECT_LE(test::relative_difference(logits(packed), logits(std::make_shared<Expanded>(packed))),
              5e-4);
    options_.bits = 8;
    run("out", options_);
    EXPECT_LE(distance_from_model("out"), 0.1);
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
