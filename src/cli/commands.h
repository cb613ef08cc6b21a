// The subcommands. Each adds its options to the program's table and, when it was chosen, leaves its
// work in Program::action; the same table prints --help and writes docs/cli.md.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <optional>
#include <string>

#include "base/progress.h"

namespace d2q::cli {

/// Options that every subcommand takes.
struct GlobalOptions {
  int threads = 0;  // 0 = all cores
  std::string isa = "auto";
  std::string device = "auto";
  std::string activations = "a16";
  std::optional<bool> progress;  // absent: only when stderr is a terminal
};

struct Program {
  GlobalOptions global;
  std::function<void()> action;
};

void add_quantize_command(CLI::App& app, Program& program);
void add_eval_command(CLI::App& app, Program& program);
void add_compare_command(CLI::App& app, Program& program);
void add_run_command(CLI::App& app, Program& program);
void add_export_command(CLI::App& app, Program& program);
void add_chat_command(CLI::App& app, Program& program);
void add_bench_command(CLI::App& app, Program& program);
void add_inspect_command(CLI::App& app, Program& program);
void add_info_command(CLI::App& app, Program& program);
/// Hidden: prints docs/cli.md from the table itself.
void add_docs_command(CLI::App& app, Program& program);

/// Fills `app` with the whole table. `app` must not outlive `program`.
void build_program(CLI::App& app, Program& program);

/// A subcommand that also takes the global options, with its examples below --help.
CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::string& examples);

}  // namespace d2q::cli
