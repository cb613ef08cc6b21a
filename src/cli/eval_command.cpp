// d2quant eval ppl: perplexity of a model on a text.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "eval/perplexity.h"

namespace d2q::cli {
namespace {

struct PerplexityCommand {
  std::string model;
  std::string text;
  std::string precision = "auto";
  PerplexityOptions options;
  bool json = false;
};

nlohmann::json to_json(const PerplexityResult& result) {
  nlohmann::json json = {
      {"perplexity", result.perplexity}, {"nll", result.nll}, {"tokens", result.tokens},
      {"windows", result.windows},       {"ctx", result.ctx}, {"seconds", result.seconds}};
  json["nll_standard_error"] = result.nll_standard_error
                                   ? nlohmann::json(*result.nll_standard_error)
                                   : nlohmann::json(nullptr);
  return json;
}

void evaluate(const PerplexityCommand& command, const GlobalOptions& global) {
  check_model_exists(command.model);
  const std::string text = read_text(command.text);
  Runtime runtime(global);
  LoadedModel model(runtime, command.model, command.precision);
  const PerplexityResult result =
      perplexity(runtime.device(), model.transformer, *model.tokenizer, text, command.options,
                 make_progress_sink(global.progress));
  if (command.json) return print_json(to_json(result));
  const std::string spread =
      result.nll_standard_error
          ? fmt::format(" +- {:.4f}", result.perplexity * *result.nll_standard_error)
          : std::string();
  print_line(fmt::format("perplexity {:.4f}{} ({} tokens in {} windows of {}, {:.1f} s)",
                         result.perplexity, spread, result.tokens, result.windows, result.ctx,
                         result.seconds));
}

}  // namespace

void add_eval_command(CLI::App& app, Program& program) {
  CLI::App& eval = add_command(app, "eval", "Measure a model", "");
  eval.require_subcommand(1);
  CLI::App& ppl = add_command(
      eval, "ppl",
      "Perplexity on a text: tokenized whole without BOS, windows of --ctx tokens without overlap, "
      "all but the first token of each scored, the remainder dropped",
      "  d2quant eval ppl model-2bit --text wiki.test.txt\n"
      "  d2quant eval ppl model.gguf --text wiki.test.txt --ctx 1024 --windows 8 --json");
  auto command = std::make_shared<PerplexityCommand>();
  ppl.add_option("MODEL", command->model, "Model folder or GGUF file")->required();
  ppl.add_option("--text", command->text, "Text file to score")->required();
  ppl.add_option("--ctx", command->options.ctx, "Tokens a window")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20));
  ppl.add_option("--windows", command->options.max_windows,
                 "Score only the first N windows; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  ppl.add_option("--limit-bytes", command->options.limit_bytes,
                 "Read only the first N bytes of the text; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 36));
  add_precision_option(ppl, command->precision, "bf16 on a GPU, else f32");
  ppl.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  ppl.callback([command, &program] {
    program.action = [command, &program] { evaluate(*command, program.global); };
  });
}

}  // namespace d2q::cli
