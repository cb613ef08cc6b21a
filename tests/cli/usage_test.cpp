// Behaviour of the command line that needs no model.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "d2quant/version.h"
#include "support/process.h"
#include "support/temporary_folder.h"

namespace d2q::test {
namespace {

/// One sentence on stderr, nothing on stdout.
void expect_failure(const ProcessResult& result, int exit_code, const std::string& part) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  EXPECT_TRUE(result.err.starts_with("d2quant: ")) << result.err;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
}

TEST(CommandLine, HelpGoesToStdoutAndExitsWithZero) {
  for (const char* command : {"quantize", "run", "inspect", "info"}) {
    const auto result = run_d2quant({command, "--help"});
    EXPECT_EQ(result.exit_code, 0) << command;
    EXPECT_NE(result.out.find("Examples:"), std::string::npos) << command;
    EXPECT_EQ(result.err, "") << command;
  }
}

TEST(CommandLine, VersionIsTheLibrarys) {
  const auto result = run_d2quant({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, std::string("d2quant ") + kVersion + "\n");
}

TEST(CommandLine, WrongUsageExitsWithTwo) {
  expect_failure(run_d2quant({}), 2, "subcommand");
  expect_failure(run_d2quant({"frobnicate"}), 2, "'frobnicate'");
  expect_failure(run_d2quant({"run", "model", "-p", "x", "--frob"}), 2, "--frob");
  expect_failure(run_d2quant({"eval", "ppl", "model"}), 2, "--text");
  expect_failure(run_d2quant({"eval", "ppl", "model", "--text", "t", "--ctx", "1"}), 2, "--ctx");
  expect_failure(run_d2quant({"run", "model"}), 2, "--prompt");
  expect_failure(run_d2quant({"info", "--isa", "mmx"}), 2, "--isa");
  expect_failure(run_d2quant({"info", "--threads", "-3"}), 2, "--threads");
  expect_failure(run_d2quant({"quantize", "model"}), 2, "--output");
  expect_failure(run_d2quant({"run", "model", "-p", "x", "--logprobs", "2"}), 2, "--json");
}

TEST(CommandLine, MissingFilesExitWithOneAndAreNamed) {
  const TemporaryFolder folder;
  const std::string text = folder.write("text.txt", "some text");
  const std::string missing = (folder.path() / "missing").string();
  expect_failure(run_d2quant({"inspect", missing}), 1, missing);
  expect_failure(run_d2quant({"run", missing, "-p", "x"}), 1, missing);
  expect_failure(run_d2quant({"eval", "ppl", missing, "--text", text}), 1, missing);
  expect_failure(run_d2quant({"quantize", missing, "-o", missing + ".out"}), 1, missing);
}

TEST(CommandLine, AFileThatIsNoModelIsNamed) {
  const TemporaryFolder folder;
  const std::string text = folder.write("model.gguf", "this is not a model");
  expect_failure(run_d2quant({"inspect", text}), 1, "model.gguf");
  expect_failure(run_d2quant({"inspect", folder.path().string()}), 1, folder.path().string());
}

TEST(CommandLine, AFullDiskIsAnErrorAndNotASilentLoss) {
  const auto result = run_d2quant({"info"}, "/dev/full");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("stdout"), std::string::npos) << result.err;
}

TEST(CommandLine, InfoReportsOneJsonObject) {
  const auto result = run_d2quant({"info", "--json", "--threads", "2", "--isa", "scalar"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("version"), kVersion);
  EXPECT_EQ(json.at("cpu").at("threads"), 2);
  EXPECT_TRUE(json.at("cpu").at("features").at("avx2").is_boolean());
  EXPECT_NE(json.at("cpu").at("device").get<std::string>().find("scalar"), std::string::npos);
  EXPECT_TRUE(json.at("cuda").at("available").is_boolean());
}

TEST(CommandLine, TheDocumentationIsWhatTheOptionTableSays) {
  const auto result = run_d2quant({"docs-cli"});
  ASSERT_EQ(result.exit_code, 0);
  std::ifstream file(D2Q_SOURCE_DIR "/docs/cli.md", std::ios::binary);
  const std::string page((std::istreambuf_iterator<char>(file)), {});
  EXPECT_EQ(page, result.out) << "write it again: d2quant docs-cli > docs/cli.md";
}

}  // namespace
}  // namespace d2q::test
