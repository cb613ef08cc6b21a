// d2quant export: a model in the formats of other software.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "export/export_gguf.h"
#include "export/export_hf.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

struct ExportCommand {
  std::string model;
  std::string output;
  std::string format;
  std::string type;
  std::string name;
  bool drop_shifts = false;
  bool overwrite = false;
  bool json = false;
};

const std::map<std::string, SafetensorsType> kHfTypes = {{"f16", SafetensorsType::kF16},
                                                         {"bf16", SafetensorsType::kBF16},
                                                         {"f32", SafetensorsType::kF32}};
const std::map<std::string, GgufType> kGgufTypes = {{"f16", GgufType::kF16},
                                                    {"bf16", GgufType::kBF16},
                                                    {"f32", GgufType::kF32},
                                                    {"q8_0", GgufType::kQ8_0},
                                                    {"q2_0", GgufType::kQ2_0}};

nlohmann::json run_export(const ExportCommand& command, const ProgressSink& progress) {
  if (command.format == "hf") {
    HfExportOptions options;
    const auto type = kHfTypes.find(command.type);
    if (type == kHfTypes.end())
      throw UsageError(fmt::format("--type {}: --to hf takes f16, bf16 or f32", command.type));
    options.dtype = type->second;
    options.drop_shifts = command.drop_shifts;
    options.overwrite = command.overwrite;
    return export_hf(command.model, command.output, options, progress);
  }
  GgufExportOptions options;
  options.type = kGgufTypes.at(command.type);
  options.name = command.name;
  options.drop_shifts = command.drop_shifts;
  options.overwrite = command.overwrite;
  return export_gguf(command.model, command.output, options, progress);
}

void export_model(const ExportCommand& command, const GlobalOptions& global) {
  check_model_exists(command.model);
  const nlohmann::json report = run_export(command, make_progress_sink(global.progress));
  if (command.json) return print_json(report);
  print_line(fmt::format("{}: {} of family {}, {} tensors, {}", command.output, command.format,
                         report.at("family").get<std::string>(),
                         report.at("tensors").get<int64_t>(),
                         format_bytes(report.at("bytes").get<double>())));
  const size_t moved = report.at("shifts_moved").size();
  const size_t dropped = report.at("shifts_dropped").size();
  if (moved > 0) print_line(fmt::format("shifts of {} norms became biases", moved));
  if (dropped > 0) print_line(fmt::format("shifts of {} norms were left out", dropped));
}

}  // namespace

void add_export_command(CLI::App& app, Program& program) {
  CLI::App& command = add_command(
      app, "export",
      "Write a model in another software's format: hf is a folder that transformers loads, gguf a "
      "file for llama.cpp. Packed weights are expanded; the shifts that quantization gives to "
      "norms "
      "become biases where the architecture has them",
      "  d2quant export model-2bit --to hf -o model-2bit-hf\n"
      "  d2quant export model-2bit --to gguf --type q8_0 -o model-2bit.gguf");
  auto options = std::make_shared<ExportCommand>();
  command.add_option("MODEL", options->model, "Model folder or GGUF file")->required();
  command.add_option("--to", options->format, "Format: hf or gguf")
      ->required()
      ->check(CLI::IsMember({"hf", "gguf"}));
  command.add_option("-o,--output", options->output, "Folder (hf) or file (gguf) to write")
      ->required();
  options->type = "f16";
  command
      .add_option("--type", options->type,
                  "Type of the weights: f16, bf16 or f32; with gguf also q8_0, and q2_0 for what "
                  "quantize --grid portable wrote")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "bf16", "f32", "q8_0", "q2_0"}));
  command.add_option("--name", options->name, "general.name of a GGUF file [MODEL's file name]");
  command.add_flag("--drop-shifts", options->drop_shifts,
                   "Leave out the shifts that the format has no place for, instead of refusing");
  command.add_flag("--overwrite", options->overwrite, "Replace an existing output");
  command.add_flag("--json", options->json, "Print one JSON object");
  command.callback([options, &program] {
    program.action = [options, &program] { export_model(*options, program.global); };
  });
}

}  // namespace d2q::cli
