// d2quant bench quantize: the time of quantization at a model's real sizes.
#include "cli/bench_quantize_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/output.h"
#include "cli/progress_line.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "model/random_weights.h"
#include "quant/quantize_bench.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

struct BenchQuantizeCommand {
  std::string shape;
  int64_t blocks = 2;
  std::string preset = "best";
  std::string precision = "auto";
  std::optional<int> bits;
  std::optional<int64_t> group_size;
  std::optional<int64_t> samples;
  std::optional<int64_t> sequence_length;
  std::optional<int64_t> tune_steps;
  std::optional<uint64_t> gpu_memory;
  int gpus = 1;
  bool json = false;
};

QuantizeOptions make_options(const BenchQuantizeCommand& command, const Device& device) {
  QuantizeOptions options = preset_options(command.preset);
  options.bits = command.bits.value_or(options.bits);
  options.group_size = command.group_size.value_or(options.group_size);
  options.samples = command.samples.value_or(options.samples);
  options.sequence_length = command.sequence_length.value_or(options.sequence_length);
  options.tune_steps = command.tune_steps.value_or(options.tune_steps);
  const bool bf16 =
      command.precision == "auto" ? device.has_fast_bf16() : command.precision == "bf16";
  options.products = bf16 ? DType::kBF16 : DType::kF32;
  options.calibration = "random tokens";
  validate(options);
  return options;
}

nlohmann::json to_json(const QuantizeBenchResult& result) {
  nlohmann::json blocks = nlohmann::json::array();
  for (const BlockSeconds& block : result.blocks)
    blocks.push_back({{"seconds", block.total}, {"stage_seconds", block.stages}});
  return {{"blocks", blocks},
          {"setup_seconds", result.setup_seconds},
          {"block_seconds", result.block_seconds()},
          {"floor_flops_per_block", result.floor_flops},
          {"flops_per_second", result.floor_flops / result.block_seconds()},
          {"product_flops_per_second", result.product_rate},
          {"share_of_floor", result.floor_flops / result.product_rate / result.block_seconds()},
          {"projected_seconds", result.projected_seconds},
          {"peak_memory_bytes", result.peak_memory_bytes},
          {"planned_memory_bytes", result.planned_memory_bytes},
          {"host_activation_bytes", result.placement.host_bytes},
          {"chunk_tokens", result.placement.chunk_tokens}};
}

void print_text(const QuantizeBenchResult& result, int64_t n_layers) {
  for (size_t i = 0; i < result.blocks.size(); ++i) {
    const BlockSeconds& block = result.blocks[i];
    print_line(fmt::format("block {}: {:.3f} s", i + 1, block.total));
    for (const auto& [stage, seconds] : block.stages)
      print_line(fmt::format("  {:<22} {:8.3f} s", stage, seconds));
  }
  const double rate = result.floor_flops / result.block_seconds();
  print_line(
      fmt::format("{:.3g} TFLOP counted a block: {:.1f} TFLOP/s, {:.0f}% of a dense "
                  "product's {:.1f}",
                  1e-12 * result.floor_flops, 1e-12 * rate, 100.0 * rate / result.product_rate,
                  1e-12 * result.product_rate));
  // Only the first block waits for its weights to be read: by itself it says too much of the rest.
  print_line(fmt::format(
      "projected for {} blocks: {:.1f} s (setup {:.1f} s; {})", n_layers, result.projected_seconds,
      result.setup_seconds,
      result.blocks.size() > 1
          ? "later blocks from those after the first"
          : "every block as the first, whose load the others overlap: --blocks 2 says less"));
  print_line(fmt::format("peak memory {}, planned {}",
                         format_bytes(static_cast<double>(result.peak_memory_bytes)),
                         format_bytes(static_cast<double>(result.planned_memory_bytes))));
  if (result.placement.host_bytes > 0) {
    print_line(fmt::format("{} of activations in the host's memory, chunks of {} tokens",
                           format_bytes(static_cast<double>(result.placement.host_bytes)),
                           result.placement.chunk_tokens));
  }
}

void bench(const BenchQuantizeCommand& command, const GlobalOptions& global) {
  const ModelConfig config = config_of_shape(command.shape);
  Runtime runtime(global, command.gpus);
  limit_gpu_memory(runtime, command.gpu_memory);
  const QuantizeOptions options = as_usage([&] { return make_options(command, runtime.device()); });
  const QuantizeBenchResult result =
      bench_quantize(config, options, std::min(command.blocks, config.n_layers), runtime.group(),
                     runtime.pool(), make_progress_sink(global.progress));
  if (command.json) {
    nlohmann::json report = to_json(result);
    report.update({{"device", runtime.group().name()},
                   {"shape", command.shape},
                   {"preset", command.preset},
                   {"bits", options.bits},
                   {"group_size", options.group_size},
                   {"samples", options.samples},
                   {"sequence_length", options.sequence_length},
                   {"tune_steps", options.tune_steps},
                   {"n_layers", config.n_layers}});
    return print_json(report);
  }
  print_line(runtime.group().name());
  print_text(result, config.n_layers);
}

}  // namespace

void add_bench_quantize_command(CLI::App& parent, Program& program) {
  CLI::App& app = add_command(
      parent, "quantize",
      "Time quantization at a model's real sizes: some blocks of random weights, random tokens, "
      "nothing written",
      "  d2quant bench quantize --shape llama3-8b --preset paper --blocks 2\n"
      "  d2quant bench quantize --shape smollm2-135m --blocks 1 --samples 2 --json");
  auto command = std::make_shared<BenchQuantizeCommand>();
  app.add_option("--shape", command->shape, "Sizes of a well-known model, with random weights")
      ->required()
      ->check(CLI::IsMember(shape_names()));
  app.add_option("--blocks", command->blocks,
                 "Blocks to quantize; those after the first stand for the rest")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 10));
  app.add_option("--preset", command->preset, "Settings: best, fast, or paper")
      ->capture_default_str();
  app.add_option("--bits", command->bits, "Bits a weight: 2, 3, 4 or 8 [preset]");
  app.add_option("--group", command->group_size, "Columns that share scales [preset]");
  app.add_option("--samples", command->samples, "Calibration windows [preset]");
  app.add_option("--seq", command->sequence_length, "Tokens a calibration window [preset]");
  app.add_option("--tune", command->tune_steps, "Steps of tuning a block; 0 is off [preset]");
  add_precision_option(app, command->precision,
                       "bf16 where the device is faster with it, else f32");
  add_gpus_option(app, command->gpus);
  add_gpu_memory_option(app, command->gpu_memory);
  app.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  app.callback([command, &program] {
    program.action = [command, &program] { bench(*command, program.global); };
  });
}

}  // namespace d2q::cli
