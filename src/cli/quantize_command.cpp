// d2quant quantize: from a model to a packed folder.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "cli/commands.h"
#include "cli/layer_override.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/quantize_result.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "d2quant/version.h"
#include "kernels/cpu/machine_speed.h"
#include "quant/options.h"
#include "quant/pipeline.h"
#include "report/quantization_page.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

/// What was given on the command line; what was not stays as the preset has it.
struct QuantizeCommand {
  std::string model;
  std::string output;
  std::string preset = "best";
  std::string precision = "auto";
  std::optional<int> bits;
  std::optional<int64_t> group_size;
  std::optional<std::string> method;
  std::optional<std::string> rotation;
  std::optional<double> alpha;
  std::optional<double> damping;
  std::optional<int> refine_rounds;
  std::optional<std::string> tune;
  std::optional<int64_t> tune_windows;
  std::optional<std::string> end_tune;
  std::optional<int64_t> end_tune_windows;
  std::optional<double> end_tune_rate;
  std::optional<std::string> calibration;
  std::optional<int64_t> samples;
  std::optional<int64_t> sequence_length;
  std::optional<uint64_t> seed;
  std::vector<std::string> layers;
  std::optional<double> target_bits;
  std::vector<std::string> keep;
  int embed_bits = 16;
  int head_bits = 16;
  bool no_dual_scale = false;
  bool no_deviation_correction = false;
  bool no_final_correction = false;
  bool no_tuned_shifts = false;
  std::string grid = "any";
  std::optional<std::string> shift_gate;
  std::optional<uint64_t> gpu_memory;
  int gpus = 1;
  bool dry_run = false;
  bool resume = false;
  bool overwrite = false;
  bool force = false;
  std::string report;               // an HTML page
  std::optional<std::string> json;  // "-" or empty: stdout
};

const std::map<std::string, QuantMethod> kMethods = {{"d2quant", QuantMethod::kD2Quant},
                                                     {"gptaq", QuantMethod::kGptaq},
                                                     {"gptq", QuantMethod::kGptq},
                                                     {"rtn", QuantMethod::kRtn}};
const std::map<std::string, RotationKind> kRotations = {
    {"block", RotationKind::kBlock}, {"full", RotationKind::kFull}, {"none", RotationKind::kNone}};

/// `snr=0.1`, `top=0.5` or `explained=0.2`.
ShiftGate parse_shift_gate(const std::string& text) {
  const std::map<std::string, ShiftGate::Kind> kinds = {{"snr", ShiftGate::Kind::kSnr},
                                                        {"top", ShiftGate::Kind::kTopFraction},
                                                        {"explained", ShiftGate::Kind::kExplained}};
  const size_t equals = text.find('=');
  const auto kind = kinds.find(text.substr(0, equals));
  double threshold = 0.0;
  if (kind == kinds.end() || equals == std::string::npos ||
      !CLI::detail::lexical_cast(text.substr(equals + 1), threshold)) {
    throw UsageError(fmt::format("--dac-gate: '{}' is not snr=T, top=T or explained=T", text));
  }
  return {kind->second, threshold};
}

/// A number of steps, or `off`.
int64_t parse_tune_steps(const char* option, const std::string& text) {
  int64_t steps = 0;
  if (text != "off" && !CLI::detail::lexical_cast(text, steps))
    throw UsageError(fmt::format("{}: '{}' is neither a number of steps nor off", option, text));
  return steps;
}

template <typename T, typename U>
void set_if_given(T& target, const std::optional<U>& given) {
  if (given) target = *given;
}

QuantizeOptions make_options(const QuantizeCommand& command, const Device& device) {
  QuantizeOptions options = preset_options(command.preset);
  set_if_given(options.bits, command.bits);
  set_if_given(options.group_size, command.group_size);
  set_if_given(options.alpha, command.alpha);
  set_if_given(options.damping, command.damping);
  set_if_given(options.refine_rounds, command.refine_rounds);
  if (command.tune) options.tune_steps = parse_tune_steps("--tune", *command.tune);
  set_if_given(options.tune_windows, command.tune_windows);
  if (command.end_tune) options.end_tune_steps = parse_tune_steps("--end-tune", *command.end_tune);
  set_if_given(options.end_tune_windows, command.end_tune_windows);
  set_if_given(options.end_tune_rate, command.end_tune_rate);
  set_if_given(options.calibration, command.calibration);
  set_if_given(options.samples, command.samples);
  set_if_given(options.sequence_length, command.sequence_length);
  set_if_given(options.seed, command.seed);
  if (command.method) options.method = kMethods.at(*command.method);
  if (command.rotation) options.rotation = kRotations.at(*command.rotation);
  if (command.no_dual_scale) options.dual_scale = false;
  if (command.no_deviation_correction) options.deviation_correction = false;
  if (command.no_final_correction) options.final_correction = false;
  options.portable_grid = command.grid == "portable";
  if (command.no_tuned_shifts) options.tune_shifts = false;
  if (command.shift_gate) options.shift_gate = parse_shift_gate(*command.shift_gate);
  set_if_given(options.target_bits, command.target_bits);
  for (const std::string& layer : command.layers)
    options.layers.push_back(parse_layer_override(layer));
  options.keep.insert(options.keep.end(), command.keep.begin(), command.keep.end());
  const bool fast_bf16 = command.precision == "auto" && device.has_fast_bf16();
  options.products = command.precision == "bf16" || fast_bf16 ? DType::kBF16 : DType::kF32;
  options.embed_bits = command.embed_bits;
  options.head_bits = command.head_bits;
  options.resume = command.resume;
  options.overwrite = command.overwrite;
  options.tool_version = kVersion;
  // What a run costs does not depend on the words of the text.
  if (command.dry_run && options.calibration.empty()) options.calibration = "self";
  validate(options);
  return options;
}

/// Seconds that the counted work takes at the speed of this machine's dense products, measured now;
/// nothing where a GPU does them.
std::optional<double> floor_seconds(Runtime& runtime, const QuantizeOptions& options,
                                    const QuantizePlan& plan) {
  if (runtime.on_gpu() || plan.floor_flops == 0.0) return std::nullopt;
  return plan.floor_flops / gemm_flops(runtime.pool(), options.products);
}

bool json_to_stdout(const QuantizeCommand& command) {
  return command.json && (command.json->empty() || *command.json == "-");
}

void print_plan(const QuantizeCommand& command, const QuantizePlan& plan,
                std::optional<double> seconds) {
  if (command.json) {
    nlohmann::json json = {{"bits_per_weight", plan.bits_per_weight},
                           {"output_bytes", plan.output_bytes},
                           {"peak_memory_bytes", plan.peak_memory_bytes},
                           {"host_activation_bytes", plan.placement.host_bytes},
                           {"chunk_tokens", plan.placement.chunk_tokens},
                           {"end_tune_kept_blocks", plan.end_tune_kept_blocks},
                           {"floor_flops", plan.floor_flops}};
    if (seconds) json["floor_seconds"] = *seconds;
    if (json_to_stdout(command)) return print_json(json);
    write_file_atomically(*command.json, json_text(json));
  }
  print_line(fmt::format("bits per weight  {:.3f} (quantized linears, scales included)",
                         plan.bits_per_weight));
  print_line(
      fmt::format("output           {}", format_bytes(static_cast<double>(plan.output_bytes))));
  print_line(fmt::format("peak memory      {}",
                         format_bytes(static_cast<double>(plan.peak_memory_bytes))));
  if (plan.placement.host_bytes > 0) {
    print_line(fmt::format("of the host      {} of activations",
                           format_bytes(static_cast<double>(plan.placement.host_bytes))));
  }
  print_line(
      fmt::format("work             {:.3g} floating-point operations at least", plan.floor_flops));
  if (!seconds) return;
  print_line(
      fmt::format("time             {} at least, at the {:.0f} GFLOP/s of plain products here",
                  format_duration(*seconds), 1e-9 * plan.floor_flops / *seconds));
}

/// Before the work: a report that cannot be written at its end would be lost.
void check_report_files(const QuantizeCommand& command) {
  if (!command.report.empty()) check_writable(command.report);
  if (command.json && !json_to_stdout(command)) check_writable(*command.json);
}

void print_report(const QuantizeCommand& command, const nlohmann::json& report) {
  if (json_to_stdout(command)) return print_json(report);
  if (command.json) write_file_atomically(*command.json, json_text(report));
  print_line(fmt::format("{}: {:.3f} bits per weight, {:.1f} s, peak memory {}", command.output,
                         report.at("bits_per_weight").get<double>(),
                         report.at("seconds").get<double>(),
                         format_bytes(report.at("peak_memory_bytes").get<double>())));
  if (!report.contains("sanity") || !report["sanity"]["perplexity"].is_number()) return;
  const nlohmann::json& sanity = report["sanity"];
  print_line(fmt::format("perplexity {:.2f}, the original's {:.2f} ({} tokens, {:.1f} s)",
                         sanity["perplexity"].get<double>(),
                         sanity["original_perplexity"].get<double>(),
                         sanity["tokens"].get<int64_t>(), sanity["seconds"].get<double>()));
}

/// Writes the folder, checked and with its model card, and returns the report. An interruption says
/// how to go on.
nlohmann::json quantize_to_folder(const QuantizeCommand& command, const QuantizeOptions& options,
                                  Runtime& runtime, const ProgressSink& progress) {
  const auto check = [&](const std::filesystem::path& folder, nlohmann::json& report) {
    check_result(runtime, command.model, folder, options, progress, report);
    write_model_card(command.model, command.output, folder, report);
  };
  try {
    return quantize(command.model, command.output, options, runtime.group(), runtime.pool(),
                    progress, check);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInterrupted) throw;
    fail(ErrorCode::kInterrupted,
         "interrupted; the finished blocks are kept, the same command with --resume goes on");
  }
}

void quantize_model(const QuantizeCommand& command, const GlobalOptions& global) {
  if (command.output.empty() && !command.dry_run)
    throw UsageError("--output is required without --dry-run");
  check_model_exists(command.model);
  Runtime runtime(global, command.gpus);
  limit_gpu_memory(runtime, command.gpu_memory);
  const QuantizeOptions options = as_usage([&] { return make_options(command, runtime.device()); });
  if (command.dry_run) {
    const QuantizePlan plan =
        plan_quantization(command.model, options, MemoryBudget::of(runtime.group()));
    return print_plan(command, plan, floor_seconds(runtime, options, plan));
  }
  const ProgressSink progress = make_progress_sink(global.progress);
  check_report_files(command);
  if (options.method != QuantMethod::kRtn) {
    warn_beyond_context(open_model(command.model)->config(), options.sequence_length,
                        "calibration windows");
  }
  nlohmann::json report = quantize_to_folder(command, options, runtime, progress);
  if (!command.report.empty()) {
    add_weight_ranges(runtime.pool(), command.model, report);
    write_file_atomically(command.report, make_quantization_page(report));
  }
  print_report(command, report);
  const std::string collapse = collapse_of(report);
  if (collapse.empty()) return;
  finish_output();
  if (!command.force) {
    fail(ErrorCode::kNumeric,
         "{}: the result has collapsed: {}; more bits, smaller groups, a rotation or more "
         "calibration text help, --force accepts it",
         command.output, collapse);
  }
  warn(fmt::format("{}: the result has collapsed: {}", command.output, collapse));
}

template <typename Map>
std::vector<std::string> names(const Map& map) {
  std::vector<std::string> result;
  for (const auto& entry : map) result.push_back(entry.first);
  return result;
}

void add_method_options(CLI::App& quantize, QuantizeCommand& command) {
  quantize
      .add_option(
          "--preset", command.preset,
          "Settings that the other options change: best, fast, or paper (the published method)")
      ->capture_default_str();
  quantize.add_option("--bits", command.bits, "Bits a weight: 2, 3, 4 or 8 [preset]");
  quantize.add_option("--group", command.group_size, "Columns that share scales [preset]");
  quantize.add_option(
      "--target-bits", command.target_bits,
      "Most bits a weight over the whole model, scales included: linears that bear rounding badly "
      "get up to 4 bits, the others --bits. Measured on a few calibration windows");
  quantize.add_option("--method", command.method, "Solver [preset]")
      ->check(CLI::IsMember(names(kMethods)));
  quantize.add_option("--rotate", command.rotation, "Rotation of the residual stream [preset]")
      ->check(CLI::IsMember(names(kRotations)));
  quantize
      .add_option(
          "--grid", command.grid,
          "Levels of a group: any, or portable: 2 bits as GGUF's Q2_0 holds them to the bit, "
          "at some cost in quality (export --to gguf --type q2_0)")
      ->capture_default_str()
      ->check(CLI::IsMember({"any", "portable"}));
  quantize.add_flag("--no-dsq", command.no_dual_scale,
                    "No dual-scale quantizer on the down projections");
  quantize.add_flag("--no-dac", command.no_deviation_correction,
                    "No deviation-aware correction of the norms");
  quantize.add_flag("--no-final-dac", command.no_final_correction,
                    "None of the final norm, whose shift no other software has a place for");
  quantize.add_flag("--no-shift", command.no_tuned_shifts,
                    "Tuning leaves the norms' shifts alone; with --no-dac every export is exact");
  quantize.add_option(
      "--dac-gate", command.shift_gate,
      "Channels that the correction may shift: snr=T, top=T (fraction) or explained=T [preset]");
  quantize.add_option(
      "--refine", command.refine_rounds,
      "Rounds of scale refit and code descent; presets best and fast only [preset]");
  quantize.add_option(
      "--tune", command.tune,
      "STEPS of tuning each block's scales and norms against the original block, or off; method "
      "d2quant only. A step costs about three forwards of its windows through the block [preset]");
  quantize.add_option("--tune-windows", command.tune_windows,
                      "Calibration windows a step of tuning [preset]");
  quantize.add_option(
      "--end-tune", command.end_tune,
      "STEPS of tuning all scales and norms at the end against the original model's next-token "
      "distribution, or off; method d2quant only. A step costs about four forwards of its windows "
      "through the model [preset]");
  quantize.add_option("--end-tune-windows", command.end_tune_windows,
                      "Calibration windows a step of tuning at the end [preset]");
  quantize.add_option("--end-tune-rate", command.end_tune_rate,
                      "Largest step of tuning at the end, as a share of a scale [preset]");
  quantize.add_option("--alpha", command.alpha,
                      "Weight of the asymmetric term; 0 is GPTQ [preset]");
  quantize.add_option("--damping", command.damping,
                      "Share of the mean Hessian diagonal added to it [preset]");
  quantize
      .add_option("--layer", command.layers,
                  "REGEX=bits=B,group=G: other settings for the linears whose name matches; may be "
                  "given again")
      ->take_all()
      ->expected(1);
  quantize
      .add_option("--keep", command.keep, "REGEX of linears left in 16 bits; may be given again")
      ->take_all()
      ->expected(1);
  quantize
      .add_option("--embed-bits", command.embed_bits, "Bits of the embedding: 4, 6, 8 or 16 (f16)")
      ->capture_default_str();
  quantize
      .add_option("--head-bits", command.head_bits,
                  "Bits of the output head: 4, 6, 8 or 16 (f16); a token reads all of it")
      ->capture_default_str();
}

void add_calibration_options(CLI::App& quantize, QuantizeCommand& command) {
  quantize.add_option(
      "--calib", command.calibration,
      "Calibration text: a .txt or .jsonl file, or self for text that the model writes [preset]");
  quantize.add_option("--samples", command.samples, "Calibration windows [preset]");
  quantize.add_option("--seq", command.sequence_length, "Tokens a calibration window [preset]");
  quantize.add_option("--seed", command.seed,
                      "Seed of windows and rotation; same seed, same bytes [preset]");
}

}  // namespace

void add_quantize_command(CLI::App& app, Program& program) {
  CLI::App& quantize = add_command(
      app, "quantize",
      "Quantize a model's decoder block by block into a packed folder. [preset] marks options "
      "whose "
      "default comes from --preset. A run that was stopped goes on with --resume",
      "  d2quant quantize model.gguf -o model-2bit --bits 2 --group 64 --calib train.txt\n"
      "  d2quant quantize model-dir -o model-3bit --bits 3 --calib train.txt --layer "
      "'down_proj=bits=4'\n"
      "  d2quant quantize model-dir -o model-mixed --target-bits 2.5 --calib train.txt\n"
      "  d2quant quantize model-dir -o model-2bit --dry-run");
  auto command = std::make_shared<QuantizeCommand>();
  quantize.add_option("MODEL", command->model, "Model folder or GGUF file")->required();
  quantize.add_option("-o,--output", command->output,
                      "Folder to write; it appears when it is complete");
  add_method_options(quantize, *command);
  add_calibration_options(quantize, *command);
  add_precision_option(quantize, command->precision,
                       "bf16 where the device is faster with it, else f32");
  add_gpus_option(quantize, command->gpus);
  add_gpu_memory_option(quantize, command->gpu_memory);
  quantize.add_flag("--dry-run", command->dry_run,
                    "Print size, memory, work and the least time that it takes, and stop");
  quantize.add_flag("--resume", command->resume,
                    "Go on from the blocks that a stopped run finished");
  quantize.add_flag("--overwrite", command->overwrite, "Replace an existing output folder");
  quantize.add_flag(
      "--force", command->force,
      "Accept a result that has collapsed: perplexity on a few held-out windows of the "
      "calibration text above 10 times the original's, not finite, or one token "
      "everywhere; else that fails, the folder kept");
  quantize.add_option("--report", command->report,
                      "Write an HTML page with errors, ranges, times and all settings to FILE");
  quantize
      .add_option("--json", command->json,
                  "Write the report as JSON to FILE, or to stdout without FILE (put it last then)")
      ->expected(0, 1)
      ->type_name("[FILE]");
  quantize.callback([command, &program] {
    program.action = [command, &program] { quantize_model(*command, program.global); };
  });
}

}  // namespace d2q::cli
