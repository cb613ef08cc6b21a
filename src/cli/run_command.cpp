// d2quant run: continue a prompt.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/generate_options.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "engine/generate.h"

namespace d2q::cli {
namespace {

struct RunCommand {
  std::string model;
  std::string prompt;
  std::string prompt_file;
  std::string precision = "auto";
  CacheType cache = CacheType::kF16;
  GenerateOptions options;
  int64_t context = 0;
  bool ignore_eos = false;
  bool json = false;
};

nlohmann::json to_json(const RunCommand& command, const GenerateResult& result) {
  nlohmann::json json = {{"prompt", command.prompt},
                         {"text", result.text},
                         {"tokens", result.tokens},
                         {"stop_reason", to_string(result.reason)},
                         {"prompt_tokens", result.prompt_tokens},
                         {"prompt_seconds", result.prompt_seconds},
                         {"generate_seconds", result.generate_seconds}};
  for (const LogProbabilities& token : result.log_probabilities) {
    nlohmann::json best = nlohmann::json::array();
    for (const auto& [id, log_probability] : token.best) {
      best.push_back({{"token", id}, {"log_probability", log_probability}});
    }
    json["log_probabilities"].push_back(
        {{"log_probability", token.chosen}, {"best", std::move(best)}});
  }
  return json;
}

void generate_text(RunCommand& command, const GlobalOptions& global) {
  if (!command.prompt_file.empty()) command.prompt = read_text(command.prompt_file);
  as_usage([&] { validate(command.options.sampling); });
  check_model_exists(command.model);
  Runtime runtime(global);
  LoadedModel model(runtime, command.model, fast_products(runtime, command.precision));
  const ModelConfig& config = model.source->config();
  const auto prompt = model.tokenizer->encode(command.prompt, /*add_special=*/true);
  const int64_t context = context_length(
      config, command.context,
      static_cast<int64_t>(prompt.size()) + std::max<int64_t>(command.options.max_tokens, 1));
  if (!command.ignore_eos) command.options.stop_tokens = config.eos_tokens;
  const auto sequence = make_sequence(runtime.device(), model.transformer, context, command.cache);
  const GenerateResult result =
      generate(*sequence, *model.tokenizer, prompt, command.options, [&](std::string_view piece) {
        if (!command.json) {
          print(piece);
          finish_output();
        }
        return !interrupted();
      });
  if (command.json) {
    print_json(to_json(command, result));
  } else {
    print("\n");
  }
  finish_output();
  throw_if_interrupted();
  if (result.tokens.size() < 2) return;
  show_note(global.progress,
            fmt::format("{} prompt tokens in {:.2f} s, then {:.1f} tokens/s, ended by {}",
                        result.prompt_tokens, result.prompt_seconds,
                        static_cast<double>(result.tokens.size() - 1) / result.generate_seconds,
                        to_string(result.reason)));
}

}  // namespace

void add_run_command(CLI::App& app, Program& program) {
  CLI::App& run = add_command(
      app, "run", "Continue a prompt",
      "  d2quant run model-2bit -p \"The capital of France is\" -n 32 --temp 0\n"
      "  d2quant run model.gguf -p \"Once upon a time\" --temp 0.8 --top-p 0.95 --seed 7");
  auto command = std::make_shared<RunCommand>();
  run.add_option("MODEL", command->model, "Model folder or GGUF file")->required();
  CLI::Option_group* source = run.add_option_group("prompt");
  source->add_option("-p,--prompt", command->prompt, "Text to continue, without a chat template");
  source->add_option("--prompt-file", command->prompt_file, "File with the text to continue");
  source->require_option(1);
  add_generate_options(run, command->options);
  run.add_option("--ctx", command->context, "Size of the context in tokens; 0 is prompt and output")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  run.add_flag("--ignore-eos", command->ignore_eos, "Go on after the model's end-of-text token");
  add_cache_option(run, command->cache);
  add_precision_option(run, command->precision,
                       "bf16 where the device is faster with it, else f32");
  CLI::Option* logprobs =
      run.add_option("--logprobs", command->options.n_log_probabilities,
                     "With --json: log-probabilities of each token and of the N best ones")
          ->check(CLI::Range(0, 1000));
  logprobs->needs(
      run.add_flag("--json", command->json, "Print one JSON object when done, numbers unrounded"));
  run.callback([command, &program] {
    program.action = [command, &program] { generate_text(*command, program.global); };
  });
}

}  // namespace d2q::cli
