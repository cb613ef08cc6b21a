// The commands on a tiny model, as a user runs them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "support/process.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace d2q::test {
namespace {

class ModelCommands : public testing::Test {
 protected:
  void SetUp() override {
    write_tiny_model(folder_.path() / "model");
    model_ = (folder_.path() / "model").string();
    text_ = folder_.write("text.txt", tiny_text(4000));
    calibration_ = folder_.write("calibration.txt", tiny_text(4000, 3));
    output_ = (folder_.path() / "packed").string();
  }

  std::vector<std::string> quantize_arguments(std::vector<std::string> more) const {
    std::vector<std::string> arguments = {
        "quantize", model_,  "-o",  output_,   "--calib", calibration_, "--samples",
        "4",        "--seq", "128", "--group", "32",      "--threads",  "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  static nlohmann::json parse(const ProcessResult& result) {
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }

  nlohmann::json perplexity(const std::string& model, const std::string& threads = "2") const {
    return parse(run_d2quant(
        {"eval", "ppl", model, "--text", text_, "--ctx", "128", "--json", "--threads", threads}));
  }

  TemporaryFolder folder_;
  std::string model_;
  std::string text_;
  std::string calibration_;
  std::string output_;
};

TEST_F(ModelCommands, PerplexityIsReportedUnrounded) {
  const auto json = perplexity(model_);
  // One token a byte: 31 windows of 128 fit in 4,000 bytes.
  const auto n_bytes = static_cast<int64_t>(std::filesystem::file_size(text_));
  EXPECT_EQ(json.at("ctx"), 128);
  EXPECT_EQ(json.at("windows"), n_bytes / 128);
  EXPECT_EQ(json.at("tokens"), n_bytes / 128 * 127);
  EXPECT_GT(json.at("seconds").get<double>(), 0.0);
  EXPECT_DOUBLE_EQ(json.at("perplexity").get<double>(), std::exp(json.at("nll").get<double>()));
  EXPECT_GT(json.at("nll_standard_error").get<double>(), 0.0);
}

TEST_F(ModelCommands, PerplexityDoesNotDependOnTheNumberOfThreads) {
  EXPECT_EQ(perplexity(model_, "1").at("nll"), perplexity(model_, "3").at("nll"));
}

TEST_F(ModelCommands, PerplexityCanBeShortened) {
  const auto windows = parse(run_d2quant(
      {"eval", "ppl", model_, "--text", text_, "--ctx", "128", "--windows", "2", "--json"}));
  const auto bytes = parse(run_d2quant(
      {"eval", "ppl", model_, "--text", text_, "--ctx", "128", "--limit-bytes", "256", "--json"}));
  EXPECT_EQ(windows.at("windows"), 2);
  EXPECT_EQ(bytes.at("nll"), windows.at("nll"));
}

TEST_F(ModelCommands, AShortTextIsRefused) {
  const auto result =
      run_d2quant({"eval", "ppl", model_, "--text", folder_.write("short.txt", "too short")});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("9 tokens"), std::string::npos) << result.err;
  EXPECT_EQ(
      run_d2quant({"eval", "ppl", model_, "--text", folder_.write("empty.txt", "")}).exit_code, 1);
}

TEST_F(ModelCommands, ProgressGoesToStderrWhenAskedFor) {
  const std::vector<std::string> arguments = {"eval", "ppl",   model_, "--text",
                                              text_,  "--ctx", "128"};
  auto asked = arguments;
  asked.push_back("--progress");
  EXPECT_EQ(run_d2quant(arguments).err, "");
  EXPECT_NE(run_d2quant(asked).err.find("perplexity"), std::string::npos);
}

TEST_F(ModelCommands, RunRepeatsItselfForOneSeed) {
  const auto generate = [&](const std::string& seed) {
    return parse(run_d2quant(
        {"run", model_, "-p", "the cat", "-n", "16", "--seed", seed, "--ignore-eos", "--json"}));
  };
  const auto first = generate("5");
  EXPECT_EQ(first.at("tokens").size(), 16u);
  EXPECT_EQ(first.at("stop_reason"), "length");
  EXPECT_EQ(first.at("tokens"), generate("5").at("tokens"));
  EXPECT_NE(first.at("tokens"), generate("6").at("tokens"));
}

TEST_F(ModelCommands, BenchReportsRatesAndYardsticks) {
  const auto decode =
      parse(run_d2quant({"bench", "decode", model_, "--steps", "4", "--context", "3", "--repeats",
                         "2", "--threads", "2", "--device", "cpu", "--json"}))
          .at("generating");
  EXPECT_EQ(decode.at("tokens_per_second").at("values").size(), 2u);
  EXPECT_GT(decode.at("bytes_per_token").get<int64_t>(), 0);
  EXPECT_GT(decode.at("read_bytes_per_second").at("median").get<double>(), 0.0);
  const auto prefill = parse(run_d2quant({"bench", "prefill", model_, "--tokens", "32", "--repeats",
                                          "2", "--threads", "2", "--device", "cpu", "--json"}));
  EXPECT_GT(prefill.at("flops").get<double>(), 0.0);
  EXPECT_GT(prefill.at("gemm_flops").at("median").get<double>(), 0.0);
  const auto text = run_d2quant({"bench", "decode", model_, "--steps", "2", "--context", "2",
                                 "--repeats", "1", "--device", "cpu"});
  EXPECT_NE(text.out.find("of a read loop"), std::string::npos) << text.out << text.err;
}

TEST_F(ModelCommands, BenchKernelsListsFormats) {
  const auto json =
      parse(run_d2quant({"bench", "kernels", "--mb", "1", "--columns", "512", "--repeats", "1",
                         "--threads", "1", "--act", "a8", "--json"}));
  EXPECT_EQ(json.at("activations"), "a8");
  EXPECT_EQ(json.at("kernels").size() % 7, 0u);
}

TEST_F(ModelCommands, EightBitActivationsAndPackedEmbeddingsRun) {
  parse(run_d2quant(
      quantize_arguments({"--embed-bits", "8", "--head-bits", "4", "--no-progress", "--json"})));
  const auto generate = [&](const std::string& act) {
    return parse(run_d2quant({"run", output_, "-p", "the cat", "-n", "8", "--temp", "0",
                              "--ignore-eos", "--act", act, "--json"}));
  };
  EXPECT_EQ(generate("a8").at("tokens").size(), 8u);
  EXPECT_EQ(generate("a16").at("tokens").size(), 8u);
}

TEST_F(ModelCommands, RunRefusesOptionsOutOfRange) {
  const auto result = run_d2quant({"run", model_, "-p", "x", "--top-p", "1.5"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("top-p"), std::string::npos) << result.err;
}

TEST_F(ModelCommands, InspectListsEveryTensor) {
  const auto json = parse(run_d2quant({"inspect", model_, "--json"}));
  EXPECT_EQ(json.at("format"), "hf");
  EXPECT_EQ(json.at("config").at("layers"), 2);
  EXPECT_EQ(json.at("tensors").size(), 20u);
  EXPECT_DOUBLE_EQ(json.at("bits_per_weight").get<double>(), 32.0);
  EXPECT_TRUE(json.at("packed_bits_per_weight").is_null());
}

TEST_F(ModelCommands, DryRunPrintsThePlanAndWritesNothing) {
  const auto json = parse(run_d2quant(quantize_arguments({"--dry-run", "--json"})));
  EXPECT_GT(json.at("bits_per_weight").get<double>(), 2.0);
  EXPECT_GT(json.at("peak_memory_bytes").get<int64_t>(), 0);
  EXPECT_FALSE(std::filesystem::exists(output_));
}

TEST_F(ModelCommands, APlanNeedsNoCalibrationText) {
  const auto result = run_d2quant({"quantize", model_, "-o", output_, "--dry-run"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(ModelCommands, OverwriteReplacesNothingButAPackedFolder) {
  const auto others = folder_.path() / "packed";
  std::filesystem::create_directory(others);
  folder_.write("packed/letter.txt", "not ours");
  const auto result = run_d2quant(quantize_arguments({"--overwrite"}));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("is not a d2quant folder"), std::string::npos) << result.err;
  EXPECT_TRUE(std::filesystem::exists(others / "letter.txt"));
}

TEST_F(ModelCommands, QuantizeWritesAFolderThatEveryCommandReads) {
  const auto report = parse(run_d2quant(quantize_arguments({"--bits", "2", "--json"})));
  EXPECT_GT(report.at("bits_per_weight").get<double>(), 2.0);
  EXPECT_GT(report.at("peak_memory_bytes").get<int64_t>(), 0);
  const auto inspected = parse(run_d2quant({"inspect", output_, "--json"}));
  EXPECT_EQ(inspected.at("format"), "d2quant");
  // Groups of 32 columns: 2 bits of code and two fp16 scales a group make 3 bits a weight.
  EXPECT_NEAR(inspected.at("packed_bits_per_weight").get<double>(), 3.0, 0.01);
  EXPECT_TRUE(std::isfinite(perplexity(output_).at("perplexity").get<double>()));
  const auto generated =
      parse(run_d2quant({"run", output_, "-p", "the", "-n", "4", "--ignore-eos", "--json"}));
  EXPECT_EQ(generated.at("tokens").size(), 4u);
}

TEST_F(ModelCommands, TuningIsChosenByThePresetAndChangedByItsOption) {
  const auto work = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--dry-run", "--json"});
    return parse(run_d2quant(quantize_arguments(more))).at("floor_flops").get<double>();
  };
  const double off = work({"--tune", "off"});
  EXPECT_EQ(work({"--tune", "0"}), off);
  EXPECT_GT(work({}), work({"--tune", "10"}));
  EXPECT_GT(work({"--tune", "10"}), work({"--tune", "10", "--tune-windows", "1"}));
  EXPECT_EQ(work({"--preset", "fast"}), work({"--preset", "fast", "--tune", "off"}));
}

TEST_F(ModelCommands, QuantizeRefusesToOverwriteUnlessTold) {
  ASSERT_EQ(run_d2quant(quantize_arguments({"--method", "rtn"})).exit_code, 0);
  const auto refused = run_d2quant(quantize_arguments({"--method", "rtn"}));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find(output_), std::string::npos) << refused.err;
  EXPECT_EQ(run_d2quant(quantize_arguments({"--method", "rtn", "--overwrite"})).exit_code, 0);
}

TEST_F(ModelCommands, QuantizeRefusesWrongOptionsAsUsage) {
  EXPECT_EQ(run_d2quant(quantize_arguments({"--bits", "5"})).exit_code, 2);
  EXPECT_EQ(run_d2quant(quantize_arguments({"--layer", "down_proj"})).exit_code, 2);
  EXPECT_EQ(run_d2quant(quantize_arguments({"--preset", "nonsense"})).exit_code, 2);
  EXPECT_EQ(run_d2quant(quantize_arguments({"--dac-gate", "loud"})).exit_code, 2);
  for (const char* steps : {"often", "-3", "1.5"})
    EXPECT_EQ(run_d2quant(quantize_arguments({"--tune", steps})).exit_code, 2) << steps;
  EXPECT_FALSE(std::filesystem::exists(output_));
}

}  // namespace
}  // namespace d2q::test
