#pragma once

#include "cli/commands.h"

namespace d2q::cli {

/// `bench quantize`, below the command `bench`.
void add_bench_quantize_command(CLI::App& parent, Program& program);

}  // namespace d2q::cli
