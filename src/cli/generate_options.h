// Options of the commands that generate text.
#pragma once

#include <CLI/CLI.hpp>

#include "engine/generate.h"

namespace d2q::cli {

/// Length, sampling and stop texts; `options` holds the defaults and must outlive the parsing.
void add_generate_options(CLI::App& command, GenerateOptions& options);

}  // namespace d2q::cli
