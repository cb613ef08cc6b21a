// d2quant eval: perplexity, divergence from a reference model, and multiple-choice tasks.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "cli/commands.h"
#include "cli/evaluation_options.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "eval/divergence.h"
#include "eval/perplexity.h"
#include "eval/result_json.h"

namespace d2q::cli {
namespace {

struct EvalCommand {
  std::string model;
  std::string reference;  // kld
  std::string text;       // ppl, kld
  std::string items;      // tasks
  std::string precision = "auto";
  WindowOptions windows;
  TaskOptions tasks;
  bool json = false;
};

std::string with_error(double value, const std::optional<double>& error, int digits) {
  return error ? fmt::format("{:.{}f} +- {:.{}f}", value, digits, *error, digits)
               : fmt::format("{:.{}f}", value, digits);
}

void evaluate_perplexity(const EvalCommand& command, const GlobalOptions& global) {
  check_model_exists(command.model);
  const std::string text = read_text(command.text);
  Runtime runtime(global);
  LoadedModel model(runtime, command.model, command.precision);
  warn_beyond_context(model.source->config(), command.windows.ctx, "windows");
  const PerplexityResult result =
      perplexity(runtime.device(), model.transformer, *model.tokenizer, text, command.windows,
                 make_progress_sink(global.progress));
  if (command.json) return print_json(to_json(result));
  std::optional<double> error = result.nll_standard_error;
  if (error) *error *= result.perplexity;
  const std::string stride =
      result.stride == result.ctx ? "" : fmt::format(", stride {}", result.stride);
  print_line(fmt::format("perplexity {} ({} tokens in {} windows of {}{}, {:.1f} s)",
                         with_error(result.perplexity, error, 4), result.tokens, result.windows,
                         result.ctx, stride, result.seconds));
}

void evaluate_divergence(const EvalCommand& command, const GlobalOptions& global) {
  check_model_exists(command.model);
  check_model_exists(command.reference);
  const std::string text = read_text(command.text);
  Runtime runtime(global);
  LoadedModel reference(runtime, command.reference, command.precision);
  LoadedModel model(runtime, command.model, command.precision);
  warn_beyond_context(model.source->config(), command.windows.ctx, "windows");
  const DivergenceResult result =
      divergence(runtime.device(), reference.transformer, *reference.tokenizer, model.transformer,
                 *model.tokenizer, text, command.windows, make_progress_sink(global.progress));
  if (command.json) return print_json(to_json(result));
  print_line(fmt::format("KL divergence    {} nats a token (mean)",
                         with_error(result.kld.mean, result.kld.standard_error, 5)));
  print_line(fmt::format("  median         {:.5f}", result.median));
  print_line(fmt::format("  99.9%          {:.5f}", result.percentile_99_9));
  print_line(fmt::format("  maximum        {:.5f}", result.maximum));
  const std::optional<double> error = result.top_agreement.standard_error;
  print_line(fmt::format("same top token   {} %",
                         with_error(100.0 * result.top_agreement.mean,
                                    error ? std::optional(100.0 * *error) : std::nullopt, 2)));
  print_line(fmt::format("RMS dp           {:.3f} % (mean {:+.3f} %)",
                         100.0 * result.rms_probability, 100.0 * result.mean_probability));
  print_line(fmt::format("perplexity       {:.4f} (reference {:.4f})", result.perplexity,
                         result.reference_perplexity));
  print_line(fmt::format("                 {} tokens in {} windows of {}, {:.1f} s", result.tokens,
                         result.windows, result.ctx, result.seconds));
}

void print_task(const ChoiceTaskResult& result) {
  const auto percent = [](const Estimate& estimate) {
    const std::optional<double> error = estimate.standard_error;
    return with_error(100.0 * estimate.mean, error ? std::optional(100.0 * *error) : std::nullopt,
                      2);
  };
  print_line(fmt::format("{:<14} {:>16} {:>16} {:>7} {:>8.1f}", result.name, percent(result.acc),
                         result.acc_norm ? percent(*result.acc_norm) : "", result.items.size(),
                         result.seconds));
  for (const SubjectResult& subject : result.subjects) {
    print_line(
        fmt::format("  {:<36} {:>16} {:>7}", subject.name, percent(subject.acc), subject.items));
  }
}

void evaluate_tasks(const EvalCommand& command, const GlobalOptions& global) {
  check_model_exists(command.model);
  if (!command.items.empty()) check_writable(command.items);
  const std::vector<ChoiceTask> tasks = read_tasks(command.tasks);
  Runtime runtime(global);
  LoadedModel model(runtime, command.model, command.precision);
  const ProgressSink progress = make_progress_sink(global.progress);
  std::vector<ChoiceTaskResult> results;
  std::string items;
  if (!command.json)
    print_line(fmt::format("{:<14} {:>16} {:>16} {:>7} {:>8}", "task", "acc, %", "acc_norm, %",
                           "items", "seconds"));
  for (const ChoiceTask& task : tasks) {
    results.push_back(run_choice_task(runtime.device(), runtime.pool(), model.transformer,
                                      *model.tokenizer, task, progress));
    if (!command.items.empty()) items += items_to_json_lines(task, results.back());
    if (!command.json) print_task(results.back());
  }
  if (!command.items.empty()) write_file_atomically(command.items, items);
  const nlohmann::json json = to_json(results);
  if (command.json) return print_json(json);
  const nlohmann::json& average = json.at("average");
  if (average.is_null() || average.at("tasks") == 1) return;
  print_line(fmt::format("{:<14} {:>16.2f} {:>16.2f}", "average",
                         100.0 * average.at("acc").get<double>(),
                         100.0 * average.at("acc_norm").get<double>()));
}

using Action = void (*)(const EvalCommand&, const GlobalOptions&);

/// A subcommand of eval with what all of them take.
CLI::App& add_evaluation(CLI::App& eval, Program& program,
                         const std::shared_ptr<EvalCommand>& command, Action action,
                         const std::string& name, const std::string& description,
                         const std::string& examples) {
  CLI::App& app = add_command(eval, name, description, examples);
  app.add_option("MODEL", command->model, "Model folder or GGUF file")->required();
  app.callback([command, action, &program] {
    program.action = [command, action, &program] { action(*command, program.global); };
  });
  return app;
}

void add_common_options(CLI::App& app, EvalCommand& command) {
  add_precision_option(app, command.precision, "bf16 on a GPU, else f32");
  app.add_flag("--json", command.json, "Print one JSON object, numbers unrounded");
}

}  // namespace

void add_eval_command(CLI::App& app, Program& program) {
  CLI::App& eval = add_command(app, "eval", "Measure a model", "");
  eval.require_subcommand(1);

  auto perplexity = std::make_shared<EvalCommand>();
  CLI::App& ppl = add_evaluation(
      eval, program, perplexity, evaluate_perplexity, "ppl",
      "Perplexity on a text: tokenized whole without BOS, windows of --ctx tokens without overlap, "
      "all but the first token of each scored, the remainder dropped",
      "  d2quant eval ppl model-2bit --text wiki.test.txt\n"
      "  d2quant eval ppl model.gguf --text wiki.test.txt --ctx 1024 --windows 8 --json");
  ppl.add_option("--text", perplexity->text, "Text file to score")->required();
  add_window_options(ppl, perplexity->windows);
  add_common_options(ppl, *perplexity);

  auto divergence = std::make_shared<EvalCommand>();
  CLI::App& kld = add_evaluation(
      eval, program, divergence, evaluate_divergence, "kld",
      "How far a model's predictions are from a reference's on a text: both run side by side; "
      "KL(reference || model), share of equal most likely tokens, and the root mean square of the "
      "difference of the text's tokens' probabilities",
      "  d2quant eval kld model-2bit --ref model.gguf --text wiki.test.txt --windows 16");
  kld.add_option("--ref", divergence->reference, "The reference: the original model")->required();
  kld.add_option("--text", divergence->text, "Text file to score")->required();
  add_window_options(kld, divergence->windows);
  add_common_options(kld, *divergence);

  auto choices = std::make_shared<EvalCommand>();
  CLI::App& tasks = add_evaluation(
      eval, program, choices, evaluate_tasks, "tasks",
      "Multiple-choice tasks with the prompts and the scoring of lm-evaluation-harness: no "
      "examples, mmlu with five",
      "  d2quant eval tasks model-2bit --tasks piqa,arc_easy --data data\n"
      "  d2quant eval tasks model-2bit --tasks all --data data --limit 100 --json");
  add_task_options(tasks, choices->tasks);
  tasks.get_option("--tasks")->required();
  tasks.add_option("--items", choices->items,
                   "Write a line of JSON for every item: log-likelihoods and what was chosen");
  add_common_options(tasks, *choices);
}

}  // namespace d2q::cli
