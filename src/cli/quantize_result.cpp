#include "cli/quantize_result.h"

#include <cmath>

#include "base/file_io.h"
#include "eval/sanity_gate.h"
#include "model/model_origin.h"
#include "quant/calibration.h"
#include "quant/ranges.h"
#include "quant/self_calibration.h"
#include "report/model_card.h"

namespace d2q::cli {
namespace {

// 2,048 tokens twice through the model, where quantization by default sends 262,144 through two or
// three times: under 1% of its time.
constexpr int64_t kWindows = 4;
constexpr int64_t kWindowTokens = 512;
// A text that the model writes costs a decode step a token.
constexpr int64_t kWrittenWindows = 2;
constexpr int64_t kWrittenTokens = 128;
constexpr uint64_t kMaxLicenseBytes = uint64_t{1} << 20;

HeldOutWindows windows_for(Runtime& runtime, const std::filesystem::path& model,
                           const QuantizeOptions& options, const ProgressSink& progress) {
  if (options.calibration == "self") {
    CalibrationSet written =
        generate_calibration_set(runtime.device(), open_model(model), kWrittenWindows,
                                 std::min(kWrittenTokens, options.sequence_length),
                                 options.seed + 1, options.products, progress);
    return {std::move(written.ids), written.sequence_length, true};
  }
  const auto tokenizer = load_tokenizer(model);
  return held_out_windows(read_calibration_text(options.calibration), *tokenizer, options.samples,
                          options.sequence_length, options.seed, kWindows,
                          std::min(kWindowTokens, options.sequence_length));
}

nlohmann::json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr);
}

}  // namespace

void check_result(Runtime& runtime, const std::filesystem::path& model,
                  const std::filesystem::path& folder, const QuantizeOptions& options,
                  const ProgressSink& progress, nlohmann::json& report) {
  if (options.calibration.empty()) return;
  const HeldOutWindows windows = windows_for(runtime, model, options, progress);
  if (windows.length < 2) return;
  const SanityResult result = check_sanity(runtime.device(), open_model(model), open_model(folder),
                                           windows.ids, windows.length, options.products, progress);
  report["sanity"] = {{"original_perplexity", result.original_perplexity},
                      {"perplexity", finite_or_null(result.perplexity)},
                      {"ratio", finite_or_null(result.ratio)},
                      {"bound", kCollapseRatio},
                      {"tokens", result.tokens},
                      {"windows", result.windows},
                      {"ctx", result.ctx},
                      {"unseen", windows.unseen},
                      {"constant_output", result.constant_output},
                      {"collapse", result.collapse},
                      {"seconds", result.seconds}};
}

void add_weight_ranges(ThreadPool& pool, const std::filesystem::path& model,
                       nlohmann::json& report) {
  const auto source = open_model(model);
  std::vector<nlohmann::json*> linears;
  for (nlohmann::json& block : report.at("blocks"))
    for (nlohmann::json& linear : block.at("linears")) linears.push_back(&linear);
  pool.parallel_for(static_cast<int64_t>(linears.size()), [&](int64_t index, int) {
    nlohmann::json& linear = *linears[static_cast<size_t>(index)];
    const std::string name = linear.at("name").get<std::string>() + ".weight";
    if (!source->has(name)) return;
    const WeightRange range = weight_range(source->load(name));
    linear["weight_range"] = {
        {"minimum", range.minimum}, {"maximum", range.maximum}, {"rms", range.rms}};
  });
}

void write_model_card(const std::filesystem::path& model, const std::filesystem::path& output,
                      const std::filesystem::path& folder, const nlohmann::json& report) {
  const ModelOrigin origin = read_model_origin(model);
  ModelCardFacts facts;
  facts.name = (output.has_filename() ? output : output.parent_path()).filename().string();
  facts.base_model = origin.name;
  facts.license = origin.license;
  for (const std::filesystem::path& file : origin.license_files) {
    write_file_atomically(folder / file.filename(), read_file(file, kMaxLicenseBytes));
    facts.license_files.push_back(file.filename().string());
  }
  write_file_atomically(folder / "README.md", make_model_card(facts, report));
}

std::string collapse_of(const nlohmann::json& report) {
  const auto sanity = report.find("sanity");
  return sanity == report.end() ? std::string() : sanity->value("collapse", "");
}

}  // namespace d2q::cli
