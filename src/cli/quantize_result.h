// What follows the last block of quantize: the check of the result, the model card, the page.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "cli/runtime.h"
#include "quant/options.h"

namespace d2q::cli {

/// Compares the packed model in `folder` with the original on a few held-out windows of the
/// calibration text and adds "sanity" to `report`; without a text nothing is added.
void check_result(Runtime& runtime, const std::filesystem::path& model,
                  const std::filesystem::path& folder, const QuantizeOptions& options,
                  const ProgressSink& progress, nlohmann::json& report);

/// Adds "weight_range" of the original's weights to each linear of `report`, which reads them once
/// more; names that `model` does not have as they are get none.
void add_weight_ranges(ThreadPool& pool, const std::filesystem::path& model,
                       nlohmann::json& report);

/// Writes README.md into `folder`, where the packed model `output` lies until it gets its name, and
/// the original's licence files beside it.
void write_model_card(const std::filesystem::path& model, const std::filesystem::path& output,
                      const std::filesystem::path& folder, const nlohmann::json& report);

/// Why the result is unusable, or "".
std::string collapse_of(const nlohmann::json& report);

}  // namespace d2q::cli
