// d2quant: the only place where errors become messages and exit codes.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/usage.h"

namespace {

enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2, kInterruptedBySignal = 130 };

int report(ExitCode code, const char* message) {
  std::fprintf(stderr, "d2quant: %s\n", message);
  return code;
}

/// One sentence about arguments that do not parse, and where the right ones are listed.
std::string describe(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (chosen.empty()) {
    const std::vector<std::string> unknown = app.remaining();
    if (unknown.empty()) return "no subcommand given; d2quant --help lists them";
    return "'" + unknown.front() + "' is no subcommand; d2quant --help lists them";
  }
  std::string command = "d2quant";
  for (const CLI::App* level = chosen.front(); level != nullptr;) {
    command += " " + level->get_name();
    const std::vector<CLI::App*> below = level->get_subcommands();
    level = below.empty() ? nullptr : below.front();
  }
  return std::string(error.what()) + "; see " + command + " --help";
}

int run(int argc, char** argv) {
  CLI::App app;
  app.name("d2quant");
  d2q::cli::Program program;
  d2q::cli::build_program(app, program);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(kWrongUsage, describe(app, error).c_str());
  }
  d2q::cli::handle_interrupts();
  d2q::cli::keep_stdout_for_results();
  program.action();
  d2q::cli::finish_output();
  return kDone;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const d2q::cli::UsageError& error) {
    return report(kWrongUsage, error.what());
  } catch (const d2q::Error& error) {
    return report(error.code() == d2q::ErrorCode::kInterrupted ? kInterruptedBySignal : kFailed,
                  error.what());
  } catch (const std::bad_alloc&) {
    return report(kFailed, "out of memory; quantize --dry-run tells what a run needs");
  } catch (const std::exception& error) {
    return report(kFailed, error.what());
  }
}
