// d2quant bench: how fast the machine is at real sizes, beside what it can do at most.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/bench_quantize_command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/runtime.h"
#include "cli/usage.h"
#include "engine/decode_bench.h"
#include "engine/kernel_speed.h"
#include "engine/speed.h"
#include "kernels/cpu/gemm.h"
#include "model/random_weights.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

/// A model's file, or random weights in a well-known shape.
struct BenchSource {
  std::string model;
  std::string shape;
  int64_t blocks = 0;
  std::string grid = "planes";
  RandomFormat format;

  std::shared_ptr<const WeightSource> open() const {
    if (!model.empty()) {
      check_model_exists(model);
      return open_model(model);
    }
    RandomFormat wanted = format;
    wanted.kind = grid == "planes" ? PackedKind::kSignPlanes : PackedKind::kUniform;
    return as_usage([&] {
      ModelConfig config = config_of_shape(shape);
      if (blocks > 0) config.n_layers = std::min(config.n_layers, blocks);
      return random_weights(config, wanted);
    });
  }
};

struct DecodeCommand {
  BenchSource source;
  std::string precision = "auto";
  DecodeBenchOptions options;
  int repeats = 5;
  bool json = false;
};

struct PrefillCommand {
  BenchSource source;
  std::string precision = "auto";
  SpeedOptions options{.tokens = 512};
  bool json = false;
};

struct KernelsCommand {
  KernelSpeedOptions options;
  std::string precision = "auto";
  bool json = false;
};

nlohmann::json to_json(const Samples& samples) {
  if (samples.values.empty()) return nullptr;
  return {{"median", samples.median()},
          {"deviation", samples.deviation()},
          {"lowest", samples.lowest()},
          {"highest", samples.highest()},
          {"values", samples.values}};
}

/// Rates of `amount` in each of the measured times.
Samples rates(const Samples& seconds, double amount) {
  Samples result;
  for (const double value : seconds.values) result.values.push_back(amount / value);
  return result;
}

/// "12.3 ± 0.4".
std::string with_spread(const Samples& samples, double unit = 1.0) {
  return fmt::format("{:.2f} ± {:.2f}", samples.median() / unit, samples.deviation() / unit);
}

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

/// Decoding as `run` does it on a CPU, and a read loop over as many bytes.
nlohmann::json to_json(const ModelSpeed& speed, int64_t tokens) {
  const Samples rate = rates(speed.seconds, static_cast<double>(tokens));
  return {{"tokens_per_second", to_json(rate)},
          {"bytes_per_token", speed.bytes_per_token},
          {"bytes_per_second", rate.median() * static_cast<double>(speed.bytes_per_token)},
          {"read_bytes_per_second", to_json(speed.read_bandwidth)}};
}

void print_text(const ModelSpeed& speed, int64_t tokens, int repeats) {
  const Samples rate = rates(speed.seconds, static_cast<double>(tokens));
  const double bandwidth = rate.median() * static_cast<double>(speed.bytes_per_token);
  print_line(fmt::format("generating: {} tokens/s (median and standard deviation of {} runs)",
                         with_spread(rate), repeats));
  print_line(fmt::format("{:.1f} MB of weights a token, {:.2f} GB/s: {:.1f}% of a read loop's {}",
                         static_cast<double>(speed.bytes_per_token) * 1e-6, bandwidth * 1e-9,
                         100.0 * bandwidth / speed.read_bandwidth.median(),
                         with_spread(speed.read_bandwidth, 1e9)));
}

void bench_decode_command(const DecodeCommand& command, const GlobalOptions& global) {
  leave_interrupts_alone();
  const auto source = command.source.open();
  Runtime runtime(global);
  const bool bf16 = command.precision == "auto" ? runtime.on_gpu() : command.precision == "bf16";
  Transformer transformer(runtime.device(), source, bf16 ? DType::kBF16 : DType::kF32);
  const DecodeBenchResult result = bench_decode(runtime.device(), transformer, command.options);
  std::optional<ModelSpeed> generating;
  if (!runtime.on_gpu() && command.options.batch == 1) {
    generating = measure_decode(runtime.device(), runtime.pool(), transformer,
                                {.tokens = command.options.steps,
                                 .past = command.options.context,
                                 .cache = command.options.cache,
                                 .repeats = command.repeats});
  }
  if (command.json) {
    nlohmann::json json = to_json(result);
    json["device"] = runtime.device().name();
    json["batch"] = command.options.batch;
    json["context"] = command.options.context;
    if (generating) json["generating"] = to_json(*generating, command.options.steps);
    return print_json(json);
  }
  print_line(runtime.device().name());
  print_text(result);
  if (generating) print_text(*generating, command.options.steps, command.repeats);
}

void bench_prefill(const PrefillCommand& command, const GlobalOptions& global) {
  leave_interrupts_alone();
  const auto source = command.source.open();
  Runtime runtime(global);
  const DType precision = fast_products(runtime, command.precision);
  const bool bf16 = precision == DType::kBF16;
  Transformer transformer(runtime.device(), source, precision);
  const ModelSpeed speed =
      measure_prefill(runtime.device(), runtime.pool(), transformer, command.options, precision,
                      /*with_products=*/!runtime.on_gpu());
  const Samples rate = rates(speed.seconds, static_cast<double>(command.options.tokens));
  const double flops = rate.median() * speed.flops_per_token;
  if (command.json) {
    return print_json({{"device", runtime.device().name()},
                       {"tokens", command.options.tokens},
                       {"past", command.options.past},
                       {"precision", bf16 ? "bf16" : "f32"},
                       {"tokens_per_second", to_json(rate)},
                       {"flops_per_token", speed.flops_per_token},
                       {"flops", flops},
                       {"gemm_flops", to_json(speed.gemm_flops)}});
  }
  print_line(runtime.device().name());
  print_line(fmt::format("{} tokens/s of a prompt of {} (median and standard deviation of {} runs)",
                         with_spread(rate), command.options.tokens, command.options.repeats));
  std::string line = fmt::format("{:.1f} GFLOP/s in the blocks' linears", flops * 1e-9);
  if (!speed.gemm_flops.values.empty()) {
    line +=
        fmt::format(": {:.1f}% of plain {} products' {}", 100.0 * flops / speed.gemm_flops.median(),
                    bf16 ? "bf16" : "f32", with_spread(speed.gemm_flops, 1e9));
  }
  print_line(line);
}

void bench_kernels(KernelsCommand& command, const GlobalOptions& global) {
  leave_interrupts_alone();
  command.options.activations = activations_of(global);
  const bool bf16 =
      command.precision == "bf16" || (command.precision == "auto" && cpu_has_bf16_products());
  command.options.precision = bf16 ? DType::kBF16 : DType::kF32;
  ThreadPool pool(global.threads);
  const auto results = measure_kernels(pool, command.options);
  if (command.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const KernelSpeed& r : results) {
      list.push_back({{"format", r.format},
                      {"isa", r.isa},
                      {"tokens", r.tokens},
                      {"bytes", r.bytes},
                      {"weights", r.weights},
                      {"seconds", to_json(r.seconds)},
                      {"read_seconds", to_json(r.read_seconds)},
                      {"gemm_flops", to_json(r.gemm_flops)}});
    }
    return print_json({{"threads", pool.n_threads()},
                       {"activations", global.activations},
                       {"columns", command.options.columns},
                       {"group_size", command.options.group_size},
                       {"kernels", list}});
  }
  print_line(fmt::format("{} threads, {}, groups of {}; medians of {} runs and standard deviations",
                         pool.n_threads(), global.activations, command.options.group_size,
                         command.options.repeats));
  for (const KernelSpeed& r : results) {
    const Samples bandwidth = rates(r.seconds, static_cast<double>(r.bytes));
    std::string line = fmt::format(
        "{:9} {:6} {:4} tokens {:>14} GB/s {:5.1f}% of a read loop at {:.1f}", r.format, r.isa,
        r.tokens, with_spread(bandwidth, 1e9), 100.0 * r.read_seconds.median() / r.seconds.median(),
        static_cast<double>(r.bytes) * 1e-9 / r.read_seconds.median());
    if (!r.gemm_flops.values.empty()) {
      const double flops = 2.0 * static_cast<double>(r.weights * r.tokens) / r.seconds.median();
      line += fmt::format(", {:.1f} GFLOP/s {:5.1f}% of plain products at {:.1f}", flops * 1e-9,
                          100.0 * flops / r.gemm_flops.median(), r.gemm_flops.median() * 1e-9);
    }
    print_line(line);
  }
}

void add_source(CLI::App& app, BenchSource& command) {
  CLI::Option_group* source = app.add_option_group("model");
  source->add_option("MODEL", command.model, "Model folder or GGUF file");
  source->add_option("--shape", command.shape, "Sizes of a well-known model, with random weights")
      ->check(CLI::IsMember(shape_names()));
  source->require_option(1);
  app.add_option("--blocks", command.blocks, "With --shape: this many blocks; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 10));
  app.add_option("--bits", command.format.bits, "With --shape: bits of a weight")
      ->capture_default_str()
      ->check(CLI::IsMember({2, 3, 4, 8}));
  app.add_option("--grid", command.grid, "With --shape: kind of grid")
      ->capture_default_str()
      ->check(CLI::IsMember({"planes", "uniform"}));
  app.add_option("--group", command.format.group_size, "With --shape: columns that share scales")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--head-bits", command.format.head_bits,
                 "With --shape: bits of the head; 16 is dense")
      ->capture_default_str()
      ->check(CLI::IsMember({2, 3, 4, 6, 8, 16}));
}

void add_repeats(CLI::App& app, int& repeats) {
  app.add_option("--repeats", repeats, "Runs, after one that does not count")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
}

void add_decode_bench(CLI::App& parent, Program& program) {
  CLI::App& app = add_command(
      parent, "decode",
      "Time decoding, a model's or that of random weights in a well-known shape; on a CPU also as "
      "run generates, beside a read loop",
      "  d2quant bench decode --shape llama3-8b --bits 2 --group 128 --device cuda\n"
      "  d2quant bench decode model-2bit --batch 4 --context 1024 --json");
  auto command = std::make_shared<DecodeCommand>();
  add_source(app, command->source);
  app.add_option("--batch", command->options.batch, "Sequences decoded together")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 12));
  app.add_option("--context", command->options.context, "Tokens before the first decoded one")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  add_cache_option(app, command->options.cache);
  app.add_option("--steps", command->options.steps, "Steps that are timed")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  add_repeats(app, command->repeats);
  add_precision_option(app, command->precision, "bf16 on a GPU, else f32");
  app.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  app.callback([command, &program] {
    program.action = [command, &program] { bench_decode_command(*command, program.global); };
  });
}

void add_prefill_bench(CLI::App& parent, Program& program) {
  CLI::App& app = add_command(
      parent, "prefill",
      "Time reading a prompt, beside plain matrix products; precision auto is the faster one",
      "  d2quant bench prefill --shape llama3.2-1b --threads 2\n"
      "  d2quant bench prefill model-2bit --tokens 1024 --json");
  auto command = std::make_shared<PrefillCommand>();
  add_source(app, command->source);
  app.add_option("--tokens", command->options.tokens, "Tokens of the prompt")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--past", command->options.past, "Tokens in the cache beforehand")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  add_repeats(app, command->options.repeats);
  add_precision_option(app, command->precision,
                       "bf16 where the device is faster with it, else f32");
  app.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  app.callback([command, &program] {
    program.action = [command, &program] { bench_prefill(*command, program.global); };
  });
}

void add_kernels_bench(CLI::App& parent, Program& program) {
  CLI::App& app = add_command(
      parent, "kernels",
      "Random packed matrices times a few tokens on the CPU, in every format and instruction set, "
      "beside a read loop and plain matrix products",
      "  d2quant bench kernels --threads 2\n"
      "  d2quant bench kernels --tokens 1,4,16,512 --act a8");
  auto command = std::make_shared<KernelsCommand>();
  app.add_option("--tokens", command->options.tokens, "Tokens, one number or several")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16));
  app.add_option("--mb", command->options.megabytes, "Size of a packed matrix in MiB")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 14));
  app.add_option("--columns", command->options.columns, "Columns of a matrix")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app.add_option("--group", command->options.group_size, "Columns that share scales")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  add_repeats(app, command->options.repeats);
  add_precision_option(app, command->precision, "bf16 where the CPU is faster with it, else f32");
  app.add_flag("--json", command->json, "Print one JSON object, numbers unrounded");
  app.callback([command, &program] {
    program.action = [command, &program] { bench_kernels(*command, program.global); };
  });
}

}  // namespace

void add_bench_command(CLI::App& app, Program& program) {
  CLI::App& parent = add_command(app, "bench", "Measure speed", "  d2quant bench decode --help");
  parent.require_subcommand(1);
  add_decode_bench(parent, program);
  add_prefill_bench(parent, program);
  add_kernels_bench(parent, program);
  add_bench_quantize_command(parent, program);
}

}  // namespace d2q::cli
