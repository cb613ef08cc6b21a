// Measurements of several models as one table.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "report/table.h"

namespace d2q {

/// `models`: an array of what `compare --json` lists under "models". A column appears when any
/// model has its figure: bits a weight, size, perplexity of each text, divergence, tasks, their
/// averages, decode speed, memory, and what quantizing took.
Table make_comparison_table(const nlohmann::json& models);

}  // namespace d2q
