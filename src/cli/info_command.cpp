// d2quant info: this machine as the program sees it.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/cpu_features.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime.h"
#include "d2quant/version.h"

namespace d2q::cli {
namespace {

nlohmann::json describe_cuda() {
  try {
    return {{"available", true}, {"name", make_cuda_device()->name()}};
  } catch (const Error& error) {
    return {{"available", false}, {"reason", error.what()}};
  }
}

void show_info(const GlobalOptions& global, bool as_json) {
  GlobalOptions cpu_options = global;
  cpu_options.device = "cpu";
  Runtime runtime(cpu_options);
  const CpuFeatures& features = cpu_features();
  const nlohmann::json cuda = describe_cuda();
  if (as_json) {
    return print_json({{"version", kVersion},
                       {"cpu",
                        {{"name", features.name},
                         {"threads", runtime.pool().n_threads()},
                         {"features",
                          {{"avx2", features.avx2},
                           {"avx512", features.avx512},
                           {"avx512bf16", features.avx512bf16},
                           {"amx_bf16", features.amx_bf16}}},
                         {"device", runtime.device().name()},
                         {"fast_bf16", runtime.device().has_fast_bf16()}}},
                       {"cuda", cuda}});
  }
  std::string list;
  const auto append = [&list](bool present, const char* name) {
    if (present) list += (list.empty() ? "" : ", ") + std::string(name);
  };
  append(features.avx2, "AVX2 with FMA and F16C");
  append(features.avx512, "AVX-512 (F, BW, DQ, VL, VNNI)");
  append(features.avx512bf16, "AVX-512 BF16");
  append(features.amx_bf16, "AMX BF16");
  print_line(fmt::format("d2quant    {}", kVersion));
  print_line(fmt::format("processor  {}", features.name.empty() ? "unknown" : features.name));
  print_line(fmt::format("features   {}", list.empty() ? "none that is used" : list));
  print_line(fmt::format("threads    {}", runtime.pool().n_threads()));
  print_line(fmt::format("cpu        {}, dense products faster in {}", runtime.device().name(),
                         runtime.device().has_fast_bf16() ? "bf16" : "f32"));
  print_line(fmt::format(
      "cuda       {}",
      cuda.at(cuda.at("available").get<bool>() ? "name" : "reason").get<std::string>()));
}

}  // namespace

void add_info_command(CLI::App& app, Program& program) {
  CLI::App& command =
      add_command(app, "info", "Show version, processor features, chosen kernels and devices",
                  "  d2quant info\n  d2quant info --isa avx2 --json");
  auto as_json = std::make_shared<bool>(false);
  command.add_flag("--json", *as_json, "Print one JSON object");
  command.callback([as_json, &program] {
    program.action = [as_json, &program] { show_info(program.global, *as_json); };
  });
}

}  // namespace d2q::cli
