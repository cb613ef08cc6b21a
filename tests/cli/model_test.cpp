// The commands on a tiny model, as a user runs them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

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

  std::string read(const std::string& name) const {
    std::ifstream file(folder_.path() / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
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
  const auto generate = [&](const std::string& act, const std::string& cache) {
    return parse(run_d2quant({"run", output_, "-p", "the cat", "-n", "8", "--temp", "0", "--device",
                              "cpu", "--ignore-eos", "--act", act, "--kv", cache, "--json"}));
  };
  EXPECT_EQ(generate("a8", "f16").at("tokens").size(), 8u);
  EXPECT_EQ(generate("a16", "f16").at("tokens").size(), 8u);
  EXPECT_EQ(generate("a16", "int8").at("tokens").size(), 8u);
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
  const auto json =
      parse(run_d2quant(quantize_arguments({"--device", "cpu", "--dry-run", "--json"})));
  EXPECT_GT(json.at("bits_per_weight").get<double>(), 2.0);
  EXPECT_GT(json.at("peak_memory_bytes").get<int64_t>(), 0);
  EXPECT_GT(json.at("floor_seconds").get<double>(), 0.0);
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
  EXPECT_GT(off, work({"--tune", "off", "--end-tune", "off"}));
  EXPECT_GT(work({}), work({"--end-tune", "10"}));
  EXPECT_GT(work({"--end-tune", "10"}), work({"--end-tune", "10", "--end-tune-windows", "1"}));
  EXPECT_GT(work({}), work({"--tune", "10"}));
  EXPECT_GT(work({"--tune", "10"}), work({"--tune", "10", "--tune-windows", "1"}));
  EXPECT_EQ(work({"--preset", "fast"}),
            work({"--preset", "fast", "--tune", "off", "--end-tune", "off"}));
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
  for (const char* steps : {"often", "-3", "1.5"}) {
    EXPECT_EQ(run_d2quant(quantize_arguments({"--tune", steps})).exit_code, 2) << steps;
    EXPECT_EQ(run_d2quant(quantize_arguments({"--end-tune", steps})).exit_code, 2) << steps;
  }
  EXPECT_FALSE(std::filesystem::exists(output_));
}

TEST_F(ModelCommands, QuantizeChecksItsResultAndWritesACard) {
  folder_.write("model/LICENSE", "the licence");
  folder_.write("model/README.md", "---\nlicense: mit\n---\n");
  const std::string page = (folder_.path() / "page.html").string();
  const auto report = parse(run_d2quant(quantize_arguments({"--report", page, "--json"})));
  const auto& sanity = report.at("sanity");
  EXPECT_GT(sanity.at("original_perplexity").get<double>(), 1.0);
  EXPECT_LT(sanity.at("ratio").get<double>(), 10.0);
  EXPECT_TRUE(sanity.at("unseen").get<bool>());
  EXPECT_EQ(sanity.at("collapse"), "");
  const std::string card = read("packed/README.md");
  EXPECT_NE(card.find("license: \"mit\""), std::string::npos) << card;
  EXPECT_NE(card.find("perplexity of this model"), std::string::npos) << card;
  EXPECT_EQ(read("packed/LICENSE"), "the licence");
  const std::string html = read("page.html");
  EXPECT_TRUE(html.starts_with("<!doctype html>"));
  EXPECT_NE(html.find("down_proj"), std::string::npos);
  EXPECT_NE(html.find("Tuning at the end, 30 steps"), std::string::npos);
  // Self-contained: nothing is loaded, nothing runs.
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("src="), std::string::npos);
  EXPECT_EQ(html.find("href="), std::string::npos);
}

TEST_F(ModelCommands, ACollapsedResultFailsUnlessForced) {
  write_fragile_model(folder_.path() / "model", tiny_text(20000, 9));
  const auto arguments = quantize_arguments({"--method", "rtn", "--rotate", "none"});
  const auto refused = run_d2quant(arguments);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("has collapsed"), std::string::npos) << refused.err;
  EXPECT_TRUE(std::filesystem::exists(output_ + "/d2quant.json"));
  auto forced = arguments;
  forced.insert(forced.end(), {"--force", "--overwrite"});
  const auto accepted = run_d2quant(forced);
  EXPECT_EQ(accepted.exit_code, 0);
  EXPECT_NE(accepted.err.find("WARNING"), std::string::npos) << accepted.err;
}

TEST_F(ModelCommands, AReportThatCannotBeWrittenFailsBeforeTheWork) {
  const std::string nowhere = (folder_.path() / "none" / "report").string();
  for (const char* option : {"--json", "--report"}) {
    const auto result = run_d2quant(quantize_arguments({option, nowhere}));
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_NE(result.err.find("cannot be created"), std::string::npos) << result.err;
  }
  EXPECT_FALSE(std::filesystem::exists(output_));
  EXPECT_FALSE(std::filesystem::exists(output_ + ".partial"));
}

TEST_F(ModelCommands, APlanGoesToTheFileThatJsonNames) {
  const std::string file = (folder_.path() / "plan.json").string();
  const auto planned =
      run_d2quant(quantize_arguments({"--device", "cpu", "--dry-run", "--json", file}));
  EXPECT_NE(planned.out.find("peak memory"), std::string::npos) << planned.err;
  EXPECT_TRUE(nlohmann::json::parse(std::ifstream(file)).contains("floor_flops"));
}

TEST_F(ModelCommands, MoreTokensThanTheModelsContextAreNotSilent) {
  const auto refused = run_d2quant({"run", model_, "-p", "x", "--ctx", "513"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("context of 512"), std::string::npos) << refused.err;
  const auto warned = run_d2quant({"eval", "ppl", model_, "--text", text_, "--ctx", "513"});
  EXPECT_EQ(warned.exit_code, 0);
  EXPECT_NE(warned.err.find("WARNING"), std::string::npos) << warned.err;
  EXPECT_EQ(run_d2quant({"eval", "ppl", model_, "--text", text_, "--ctx", "512"}).err, "");
  const auto calibrated = run_d2quant({"quantize", model_, "-o", output_, "--calib", calibration_,
                                       "--samples", "1", "--seq", "1024", "--preset", "paper"});
  EXPECT_NE(calibrated.err.find("calibration windows of 1024"), std::string::npos)
      << calibrated.err;
}

TEST_F(ModelCommands, DivergenceOfAModelFromItselfIsZero) {
  const auto json = parse(run_d2quant({"eval", "kld", model_, "--ref", model_, "--text", text_,
                                       "--ctx", "128", "--windows", "3", "--json"}));
  EXPECT_NEAR(json.at("kld").get<double>(), 0.0, 1e-12);
  EXPECT_EQ(json.at("top_agreement"), 1.0);
  EXPECT_EQ(json.at("tokens"), 3 * 127);
}

TEST_F(ModelCommands, OverlappingWindowsScoreMoreContext) {
  const auto json = parse(run_d2quant({"eval", "ppl", model_, "--text", text_, "--ctx", "128",
                                       "--stride", "64", "--windows", "3", "--json"}));
  EXPECT_EQ(json.at("tokens"), 127 + 2 * 64);
  EXPECT_EQ(run_d2quant({"eval", "ppl", model_, "--text", text_, "--ctx", "8", "--stride", "9"})
                .exit_code,
            1);
}

TEST_F(ModelCommands, TasksAreScoredItemByItem) {
  folder_.write("piqa_val.jsonl",
                "{\"goal\": \"eat\", \"sol1\": \"the cat\", \"sol2\": \"a mat\", \"label\": 1}\n"
                "{\"goal\": \"run\", \"sol1\": \"far\", \"sol2\": \"to the sea\", \"label\": 0}\n");
  const std::string data = folder_.path().string();
  const std::string items = (folder_.path() / "items.jsonl").string();
  const auto json = parse(run_d2quant(
      {"eval", "tasks", model_, "--tasks", "piqa", "--data", data, "--items", items, "--json"}));
  EXPECT_EQ(json.at("tasks").at("piqa").at("items"), 2);
  EXPECT_EQ(json.at("average").at("acc"), json.at("tasks").at("piqa").at("acc"));
  std::istringstream lines(read("items.jsonl"));
  double hits = 0.0;
  for (std::string line; std::getline(lines, line);) {
    const auto item = nlohmann::json::parse(line);
    const auto& scores = item.at("log_likelihoods");
    ASSERT_EQ(scores.size(), 2u);
    EXPECT_LT(scores[0].get<double>(), 0.0);
    EXPECT_EQ(item.at("chosen").get<int>(), scores[1] > scores[0] ? 1 : 0);
    hits += item.at("chosen") == item.at("gold") ? 0.5 : 0.0;
  }
  EXPECT_EQ(json.at("tasks").at("piqa").at("acc"), hits);
  EXPECT_EQ(run_d2quant({"eval", "tasks", model_, "--tasks", "pica", "--data", data}).exit_code, 2);
  EXPECT_EQ(run_d2quant({"eval", "tasks", model_, "--tasks", "piqa"}).exit_code, 2);
  EXPECT_EQ(run_d2quant({"eval", "tasks", model_, "--tasks", "rte", "--data", data}).exit_code, 1);
}

TEST_F(ModelCommands, CompareMakesOneTableInEveryFormat) {
  ASSERT_EQ(
      run_d2quant(quantize_arguments({"--json", (folder_.path() / "q.json").string()})).exit_code,
      0);
  const std::string page = (folder_.path() / "page.html").string();
  const auto measured = run_d2quant(
      {"compare", "original=" + model_, "two=" + output_, "--text", "t=" + text_, "--ctx", "128",
       "--windows", "2", "--ref", model_, "--decode", "4", "--run",
       "two=" + (folder_.path() / "q.json").string(), "--report", page, "--format", "json"});
  const auto json = parse(measured);
  ASSERT_EQ(json.at("models").size(), 2u);
  const auto& two = json.at("models")[1];
  EXPECT_EQ(json.at("models")[0].at("bits_per_weight"), 32.0);
  EXPECT_NEAR(two.at("bits_per_weight").get<double>(), 3.0, 0.01);
  EXPECT_GT(two.at("divergence").at("t").at("kld").get<double>(), 0.0);
  EXPECT_GT(two.at("decode_tokens_per_second").get<double>(), 0.0);
  EXPECT_GT(two.at("quantization").at("seconds").get<double>(), 0.0);
  EXPECT_NE(read("page.html").find("Comparison of models"), std::string::npos);
  // Rows of an earlier comparison are taken over.
  const std::string earlier = folder_.write("earlier.json", measured.out);
  const auto markdown = run_d2quant({"compare", earlier, "--format", "markdown"});
  EXPECT_EQ(markdown.exit_code, 0) << markdown.err;
  EXPECT_NE(markdown.out.find("| two | "), std::string::npos) << markdown.out;
  const auto csv = run_d2quant({"compare", earlier, "--format", "csv"});
  EXPECT_NE(csv.out.find("\r\noriginal,32.0,"), std::string::npos) << csv.out;
  EXPECT_EQ(run_d2quant({"compare", model_, "--format", "xml"}).exit_code, 2);
}

TEST_F(ModelCommands, CompareRefusesNamesThatHideOneAnother) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& what) {
    arguments.insert(arguments.begin(), {"compare", "a=" + model_});
    const auto result = run_d2quant(arguments);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find(what), std::string::npos) << result.err;
  };
  refused({"a=" + model_}, "'a' is named twice");
  refused({"--text", "t=" + text_, "--text", "t=" + calibration_}, "'t' is named twice");
  const std::string report = folder_.write("q.json", R"({"seconds": 1.0, "peak_memory_bytes": 1})");
  refused({"--run", "b=" + report}, "'b' is none of the models");
}

}  // namespace
}  // namespace d2q::test
