// d2quant bench: how fast the machine is at real sizes.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "engine/decode_bench.h"
#include "model/random_weights.h"

namespace d2q::cli {
namespace {

struct DecodeCommand {
  std::string model;
  std::string shape;
  int64_t blocks = 0;
  std::string grid = "planes";
  RandomFormat format;
  std::string precision = "auto";
  DecodeBenchOptions options;
  bool json = false;
};

nlohmann::json to_json(const DecodeBenchResult& result) {
  nlohmann::json stages = nlohmann::json::object();
  for (const DecodeStageTime& stage : result.stages) stages[stage.name] = stage.seconds;
  return {{"step_seconds", result.step_seconds},
          {"tokens_per_second", result.tokens_per_second},
          {"weight_bytes", result.weight_bytes},
          {"cache_bytes", result.cache_bytes},
          {"bytes_per_second", result.bytes_per_second()},
          {"copy_bytes_per_second", result.copy_bytes_per_second},
          {"stage_seconds", stages}};
}

void print_text(const DecodeBenchResult& result) {
  const double share = result.bytes_per_second() / result.copy_bytes_per_second;
  print_line(fmt::format("{:.1f} tokens/s, {:.3f} ms a step", result.tokens_per_second,
                         1e3 * result.step_seconds));
  print_line(
      fmt::format("{} of weights and {} of keys and values a step: {}/s, {:.0f}% of a copy's {}/s",
                  format_bytes(static_cast<double>(result.weight_bytes)),
                  format_bytes(static_cast<double>(result.cache_bytes)),
                  format_bytes(result.bytes_per_second()), 100.0 * share,
                  format_bytes(result.copy_bytes_per_second)));
  print_line("stages of all layers, each by itself:");
  for (const DecodeStageTime& stage : result.stages) {
    print_line(fmt::format("  {:<10} {:8.3f} ms", stage.name, 1e3 * stage.seconds));
  }
}

void bench(const DecodeCommand& command, const GlobalOptions& global) {
  if (!command.model.empty()) check_model_exists(command.model);
  std::shared_ptr<const WeightSource> source;
  if (command.model.empty()) {
    RandomFormat format = command.format;
    format.kind = command.grid == "planes" ? PackedKind::kSignPlanes : PackedKind::kUniform;
    as_usage([&] {
      ModelConfig config = config_of_shape(command.shape);
      if (command.blocks > 0) config.n_layers = std::min(config.n_layers, command.blocks);
      source = random_weights(config, format);
    });
  } else {
    source = open_model(command.model);
  }
  Runtime runtime(global);
  const bool bf16 = command.precision == "auto" ? runtime.on_gpu() : command.precision == "bf16";
  Transformer transformer(runtime.device(), source, bf16 ? DType::kBF16 : DType::kF32);
  const DecodeBenchResult result = bench_decode(runtime.device(), transformer, command.options);
  if (command.json) {
    nlohmann::json json = to_json(result);
    json["device"] = runtime.device().name();
    json["batch"] = command.options.batch;
    json["context"] = command.options.context;
    print_json(json);
  } else {
    print_line(runtime.device().name());
    print_text(result);
  }
}

void add_decode_bench(CLI::App& parent, Program& program) {
  CLI::App& app = add_command(
      parent, "decode", "Time decoding, a model's or that of random weights in a well-known shape",
      "  d2quant bench decode --shape llama3-8b --bits 2 --group 128 --device cuda\n"
      "  d2quant bench decode model-2bit --batch 4 --context 1024 --json");
  auto command = std::make_shared<DecodeCommand>();
  CLI::Option_group* source = app.add_option_group("model");
  source->add_option("MODEL", command->model, "Model folder or GGUF file");
  source->add_option("--shape", command->shape, "Sizes of a well-known model, with random weights")
      ->check(CLI::IsMember(shape_names()));
  source->require_option(1);
  app.add_option("--blocks", command->blocks, "With --shape: this many blocks; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 10));
  app.add_option("--bits", command->format.bits, "With --shape: bits of a weight")
      ->capture_default_str()
      ->check(CLI::IsMember({2, 3, 4, 8}));
  app.add_option("--grid", command->grid, "With --shape: kind of grid")
      ->capture_default_str()
      ->check(CLI::IsMember({"planes", "uniform"}));
  app.add_option("--group", command->format.group_size, "With --shape: columns that share scales")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--head-bits", command->format.head_bits,
                 "With --shape: bits of the head; 16 is dense")
      ->capture_default_str()
      ->check(CLI::IsMember({2, 3, 4, 8, 16}));
  app.add_option("--batch", command->options.batch, "Sequences decoded together")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 12));
  app.add_option("--context", command->options.context, "Tokens before the first decoded one")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--steps", command->options.steps, "Steps that are timed")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  add_precision_option(app, command->precision, "bf16 on a GPU, else f32");
  app.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  app.callback([command, &program] {
    program.action = [command, &program] { bench(*command, program.global); };
  });
}

}  // namespace

void add_bench_command(CLI::App& app, Program& program) {
  CLI::App& parent = add_command(app, "bench", "Measure speed", "  d2quant bench decode --help");
  parent.require_subcommand(1);
  add_decode_bench(parent, program);
}

}  // namespace d2q::cli
