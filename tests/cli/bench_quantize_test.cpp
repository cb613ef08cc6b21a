// d2quant bench quantize, as a user runs it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/process.h"

namespace d2q::test {
namespace {

ProcessResult bench(const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"bench",     "quantize", "--shape",  "smollm2-135m",
                                        "--samples", "2",        "--seq",    "32",
                                        "--threads", "2",        "--device", "cpu"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_d2quant(arguments);
}

TEST(BenchQuantize, TimesEveryStageOfABlockAndProjectsTheModel) {
  const ProcessResult result =
      bench({"--preset", "fast", "--tune", "1", "--blocks", "2", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json.at("blocks").size(), 2u);
  double sum = 0.0;
  for (const auto& block : json["blocks"]) {
    double stages = 0.0;
    for (const char* stage : {"load", "full-precision stream", "statistics", "factorise", "solve",
                              "report", "quantized stream", "tune", "pack"}) {
      EXPECT_GT(block["stage_seconds"].at(stage).get<double>(), 0.0) << stage;
      stages += block["stage_seconds"][stage].get<double>();
    }
    EXPECT_LE(stages, block["seconds"].get<double>());
    EXPECT_GT(stages, 0.5 * block["seconds"].get<double>());
    sum += block["seconds"].get<double>();
  }
  EXPECT_GT(json.at("projected_seconds").get<double>(), sum);
  EXPECT_GT(json.at("floor_flops_per_block").get<double>(), 0.0);
  EXPECT_GT(json.at("share_of_floor").get<double>(), 0.0);
  EXPECT_GT(json.at("peak_memory_bytes").get<double>(), 1e6);
  // Of the whole model: its embedding in f32 at least.
  EXPECT_GE(json.at("planned_memory_bytes").get<double>(), 4.0 * 49152 * 576);
}

TEST(BenchQuantize, PrintsTheProjection) {
  const ProcessResult result = bench({"--preset", "paper", "--blocks", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("projected for 30 blocks"), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("every block as the first"), std::string::npos) << result.out;
}

TEST(BenchQuantize, UnknownShapesAndSettingsAreWrongUsage) {
  EXPECT_EQ(run_d2quant({"bench", "quantize"}).exit_code, 2);
  EXPECT_EQ(run_d2quant({"bench", "quantize", "--shape", "llama9"}).exit_code, 2);
  EXPECT_EQ(bench({"--preset", "worst"}).exit_code, 2);
  EXPECT_EQ(bench({"--bits", "5"}).exit_code, 2);
  EXPECT_EQ(bench({"--gpu-mem", "much"}).exit_code, 2);
}

TEST(BenchQuantize, ALimitOnTheGpusMemoryNeedsAGpu) {
  const ProcessResult result = bench({"--gpu-mem", "12GB"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("needs --device cuda"), std::string::npos) << result.err;
}

TEST(BenchQuantize, SeveralGpusNeedGpus) {
  const ProcessResult result = bench({"--gpus", "2"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.err.find("--device cpu has none"), std::string::npos) << result.err;
  EXPECT_EQ(bench({"--gpus", "0"}).exit_code, 2);
}

}  // namespace
}  // namespace d2q::test
