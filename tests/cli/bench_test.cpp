// d2quant bench, as a user runs it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/process.h"

namespace d2q::test {
namespace {

TEST(BenchCommand, DecodesAWellKnownShapeWithRandomWeights) {
  const ProcessResult result =
      run_d2quant({"bench", "decode", "--shape", "smollm2-135m", "--blocks", "1", "--steps", "1",
                   "--context", "4", "--threads", "2", "--device", "cpu", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_GT(json.at("tokens_per_second").get<double>(), 0.0);
  EXPECT_EQ(json.at("cache_bytes"), 4 * 4 * 192);
  EXPECT_EQ(json.at("stage_seconds").size(), 8u);
}

TEST(BenchCommand, DecodesWithACacheIn8Bits) {
  const ProcessResult result = run_d2quant(
      {"bench", "decode", "--shape", "smollm2-135m", "--blocks", "1", "--steps", "1", "--context",
       "4", "--kv", "int8", "--threads", "2", "--device", "cpu", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  // Keys and values of three heads: 64 bytes and a scale each.
  EXPECT_EQ(nlohmann::json::parse(result.out).at("cache_bytes"), 2 * 4 * 3 * (64 + 4));
  EXPECT_EQ(run_d2quant({"bench", "decode", "--shape", "smollm2-135m", "--kv", "q3"}).exit_code, 2);
}

TEST(BenchCommand, NeedsOneModel) {
  EXPECT_EQ(run_d2quant({"bench", "decode"}).exit_code, 2);
  EXPECT_EQ(run_d2quant({"bench", "decode", "--shape", "llama9"}).exit_code, 2);
  EXPECT_EQ(run_d2quant({"bench", "decode", "m", "--shape", "smollm2-135m"}).exit_code, 2);
}

}  // namespace
}  // namespace d2q::test
