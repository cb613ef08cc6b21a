// d2quant compare: one table of several models' measurements.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "base/process_memory.h"
#include "cli/commands.h"
#include "cli/evaluation_options.h"
#include "cli/model_contents.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "engine/generate.h"
#include "eval/divergence.h"
#include "eval/perplexity.h"
#include "eval/result_json.h"
#include "format/json_file.h"
#include "report/comparison_page.h"
#include "report/comparison_table.h"

namespace d2q::cli {
namespace {

struct CompareCommand {
  std::vector<std::string> models;
  std::vector<std::string> texts;
  std::vector<std::string> runs;
  std::string reference;
  std::string precision = "auto";
  std::string format = "text";
  WindowOptions windows;
  TaskOptions tasks;
  int64_t decode_tokens = 64;
  std::string report;  // an HTML page
};

struct Named {
  std::string name;
  std::string path;
};

/// "NAME=PATH", or a path whose name without extension is the name.
Named parse_named(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0 && !std::filesystem::exists(text))
    return {text.substr(0, equals), text.substr(equals + 1)};
  std::filesystem::path path(text);
  if (!path.has_filename()) path = path.parent_path();
  return {std::filesystem::is_directory(path) ? path.filename().string() : path.stem().string(),
          text};
}

struct LabelledText {
  std::string label;
  std::string text;
};

/// Everything that is measured on each model.
struct Measurements {
  std::vector<LabelledText> texts;
  std::vector<ChoiceTask> tasks;
  std::map<std::string, nlohmann::json> runs;  // by model name: what quantizing it took
};

/// Tokens a second after a short prompt, one token at a time, the most likely one each.
double decode_speed(Runtime& runtime, LoadedModel& model, int64_t n_tokens) {
  const auto prompt = model.tokenizer->encode("The history of the city begins", true);
  GenerateOptions options;
  options.sampling.temperature = 0.0;
  options.max_tokens = n_tokens;
  const auto sequence = make_sequence(runtime.device(), model.transformer,
                                      static_cast<int64_t>(prompt.size()) + n_tokens + 1);
  const GenerateResult result =
      generate(*sequence, *model.tokenizer, prompt, options, [](std::string_view) { return true; });
  return static_cast<double>(result.tokens.size() - 1) / result.generate_seconds;
}

nlohmann::json measure(const CompareCommand& command, const GlobalOptions& global,
                       const Named& named, const Measurements& what) {
  check_model_exists(named.path);
  const bool own_peak = reset_peak_resident();
  Runtime runtime(global);
  LoadedModel model(runtime, named.path, command.precision);
  if (!what.texts.empty())
    warn_beyond_context(model.source->config(), command.windows.ctx, named.name + ": windows");
  const ProgressSink sink = make_progress_sink(global.progress);
  const ProgressSink progress = [&](const ProgressEvent& event) {
    sink({named.name + " " + event.stage, event.done, event.total, event.detail});
  };
  nlohmann::json row = {{"name", named.name},
                        {"path", named.path},
                        {"format", model.source->format()},
                        {"device", runtime.device().name()},
                        {"bytes", size_on_disk(named.path)}};
  row["bits_per_weight"] = block_linears(list_tensors(*model.source, named.path)).bits_per_weight();
  if (command.decode_tokens > 0)
    row["decode_tokens_per_second"] = decode_speed(runtime, model, command.decode_tokens);
  // JSON objects are sorted; the table's columns keep the order of the command line.
  for (const auto& [label, text] : what.texts) {
    row["texts"].push_back(label);
    row["perplexity"][label] = to_json(perplexity(
        runtime.device(), model.transformer, *model.tokenizer, text, command.windows, progress));
  }
  std::vector<ChoiceTaskResult> results;
  for (const ChoiceTask& task : what.tasks) {
    row["task_names"].push_back(task.name);
    results.push_back(run_choice_task(runtime.device(), runtime.pool(), model.transformer,
                                      *model.tokenizer, task, progress));
  }
  if (!results.empty()) row.update(to_json(results));
  if (own_peak) row["peak_memory_bytes"] = peak_resident_bytes();
  if (!command.reference.empty()) {
    // After the peak was read: the reference is not part of the model's memory.
    LoadedModel reference(runtime, command.reference, command.precision);
    for (const auto& [label, text] : what.texts) {
      row["divergence"][label] =
          to_json(divergence(runtime.device(), reference.transformer, *reference.tokenizer,
                             model.transformer, *model.tokenizer, text, command.windows, progress));
    }
  }
  return row;
}

/// Rows of an earlier `compare --json`.
nlohmann::json read_rows(const std::string& path) {
  const nlohmann::json earlier = read_json_file(path);
  if (!earlier.is_object() || !earlier.contains("models") || !earlier["models"].is_array())
    fail(ErrorCode::kCorrupt, "{}: has no \"models\"; did compare --json write it?", path);
  for (const nlohmann::json& row : earlier["models"]) {
    if (!row.is_object() || !row.contains("name") || !row["name"].is_string())
      fail(ErrorCode::kCorrupt, "{}: one of its models has no \"name\"", path);
  }
  return earlier["models"];
}

/// A name stands for one column, row or run; a second one would hide the first.
void check_new(std::set<std::string>& names, const std::string& option, const std::string& name) {
  if (!names.insert(name).second)
    throw UsageError(fmt::format("{}: '{}' is named twice; give NAME=PATH", option, name));
}

Measurements read_inputs(const CompareCommand& command) {
  Measurements what;
  std::set<std::string> labels;
  for (const std::string& text : command.texts) {
    const Named named = parse_named(text);
    check_new(labels, "--text", named.name);
    what.texts.push_back({named.name, read_text(named.path)});
  }
  what.tasks = read_tasks(command.tasks);
  std::set<std::string> runs;
  for (const std::string& run : command.runs) {
    const Named named = parse_named(run);
    check_new(runs, "--run", named.name);
    const nlohmann::json report = read_json_file(named.path);
    if (!report.is_object() || !report.contains("seconds") || !report.contains("peak_memory_bytes"))
      fail(ErrorCode::kCorrupt, "{}: is not what quantize --json writes", named.path);
    what.runs[named.name] = {{"seconds", report["seconds"]},
                             {"peak_memory_bytes", report["peak_memory_bytes"]},
                             {"settings", report.value("settings", nlohmann::json())}};
  }
  return what;
}

bool is_earlier_result(const std::string& model) {
  return model.ends_with(".json") && std::filesystem::is_regular_file(model);
}

/// Before anything is measured: all models are there, and every row and run has its own name.
void check_names(const CompareCommand& command, const Measurements& what) {
  std::set<std::string> rows;
  for (const std::string& model : command.models) {
    if (is_earlier_result(model)) {
      for (const nlohmann::json& row : read_rows(model))
        check_new(rows, "MODEL", row["name"].get<std::string>());
    } else {
      const Named named = parse_named(model);
      check_new(rows, "MODEL", named.name);
      check_model_exists(named.path);
    }
  }
  if (!command.reference.empty()) check_model_exists(command.reference);
  for (const auto& [name, report] : what.runs) {
    if (!rows.contains(name))
      throw UsageError(fmt::format("--run: '{}' is none of the models", name));
  }
}

void compare(const CompareCommand& command, const GlobalOptions& global) {
  if (!command.reference.empty() && command.texts.empty())
    throw UsageError("--ref needs --text, on which the models are compared");
  if (!command.report.empty()) check_writable(command.report);
  const Measurements what = read_inputs(command);
  check_names(command, what);
  nlohmann::json rows = nlohmann::json::array();
  for (const std::string& model : command.models) {
    if (is_earlier_result(model)) {
      for (nlohmann::json& row : read_rows(model)) rows.push_back(std::move(row));
    } else {
      rows.push_back(measure(command, global, parse_named(model), what));
    }
  }
  for (nlohmann::json& row : rows) {
    const auto run = what.runs.find(row["name"].get<std::string>());
    if (run != what.runs.end()) row["quantization"] = run->second;
  }
  const Table table = make_comparison_table(rows);
  if (!command.report.empty()) write_file_atomically(command.report, make_comparison_page(rows));
  if (command.format == "json") print_json({{"models", rows}});
  if (command.format == "text") print(to_text(table));
  if (command.format == "markdown") print(to_markdown(table));
  if (command.format == "csv") print(to_csv(table));
}

}  // namespace

void add_compare_command(CLI::App& app, Program& program) {
  CLI::App& compare_app = add_command(
      app, "compare",
      "One table of several models: bits a weight of the blocks' linears, size, perplexity, "
      "divergence, tasks, decode speed and peak memory, each measured in turn",
      "  d2quant compare original=model.gguf two=model-2bit three=model-3bit --text wiki=wiki.txt\n"
      "  d2quant compare model-2bit --ref model.gguf --text wiki.txt --tasks all --data data "
      "--format markdown\n"
      "  d2quant compare first.json second.json --format csv");
  auto command = std::make_shared<CompareCommand>();
  compare_app
      .add_option("MODEL", command->models,
                  "NAME=MODEL or a model, whose file's name it gets; or a .json that an earlier "
                  "compare --format json wrote, whose rows are taken over")
      ->required();
  compare_app
      .add_option("--text", command->texts,
                  "LABEL=FILE or a text file, for perplexity; may be given again")
      ->take_all()
      ->expected(1);
  compare_app.add_option("--ref", command->reference,
                         "The original model: adds the divergence from it on each text");
  add_window_options(compare_app, command->windows);
  add_task_options(compare_app, command->tasks);
  compare_app
      .add_option("--decode", command->decode_tokens,
                  "Tokens to generate for the decode speed; 0 leaves it out")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  compare_app
      .add_option(
          "--run", command->runs,
          "NAME=FILE: what quantize --json wrote for the model of that name, whose time and "
          "memory are added; may be given again")
      ->take_all()
      ->expected(1);
  add_precision_option(compare_app, command->precision, "bf16 on a GPU, else f32");
  compare_app.add_option("--format", command->format, "What stdout gets")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json", "markdown", "csv"}));
  compare_app.add_option("--report", command->report,
                         "Write an HTML page with the table and plots to FILE");
  compare_app.callback([command, &program] {
    program.action = [command, &program] { compare(*command, program.global); };
  });
}

}  // namespace d2q::cli
