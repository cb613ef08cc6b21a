#include "cli/commands.h"
#include "d2quant/version.h"

namespace d2q::cli {

CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::string& examples) {
  CLI::App* command = parent.add_subcommand(name, description);
  command->fallthrough();  // global options may stand after the subcommand
  command->footer(
      (examples.empty() ? "" : "Examples:\n" + examples + "\n") +
      "Options of every command (--threads, --isa, --act, --device, --progress): d2quant --help");
  return *command;
}

void build_program(CLI::App& app, Program& program) {
  app.description(
      "Quantize large language models to 2 and 3 bits with D2Quant, and evaluate and run them.\n"
      "MODEL is a Hugging Face folder, a GGUF file or a d2quant folder, for every command.");
  app.set_version_flag("--version", std::string("d2quant ") + kVersion,
                       "Print the version and exit");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer(
      "stdout carries the result, stderr the progress.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.");
  GlobalOptions& global = program.global;
  app.add_option("--threads", global.threads,
                 "Threads; 0 is one per core. Results do not depend on it")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--isa", global.isa,
                 "Instruction set of the CPU kernels: auto takes the best that this machine has")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512"}));
  app.add_option("--act", global.activations,
                 "Integers for activations where few tokens meet packed weights on the CPU: a16 "
                 "(relative error 2.9e-5) or a8 (6e-3, faster where instructions are the limit)")
      ->capture_default_str()
      ->check(CLI::IsMember({"a16", "a8"}));
  app.add_option("--device", global.device, "Where to compute: auto takes a GPU when there is one")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_flag_callback(
      "--progress", [&global] { global.progress = true; },
      "Report progress on stderr even when it is not a terminal");
  app.add_flag_callback(
      "--no-progress", [&global] { global.progress = false; }, "Report no progress");
  add_quantize_command(app, program);
  add_eval_command(app, program);
  add_compare_command(app, program);
  add_run_command(app, program);
  add_export_command(app, program);
  add_chat_command(app, program);
  add_inspect_command(app, program);
  add_info_command(app, program);
  add_bench_command(app, program);
  add_docs_command(app, program);
}

}  // namespace d2q::cli
