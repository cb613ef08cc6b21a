// What a quantization run says of itself: in run.json, config.json and d2quant.json.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "quant/block_quantizer.h"
#include "quant/options.h"

namespace d2q {

/// Every option that the result depends on.
nlohmann::json describe(const QuantizeOptions& options);
/// A finished block: its linears, corrections and tuning; no times.
nlohmann::json describe(const QuantizedBlock& block);

/// Changes when the model does: its configuration, and each weight file's size and content as far
/// as sampled_file_hash_hex() reads it.
std::string model_fingerprint(const std::filesystem::path& model);

/// The packed folder's config.json: the model's with its quantization_config.
nlohmann::json packed_config(const std::filesystem::path& model, const QuantizeOptions& options);

/// Of the packed linears in the reports of all blocks, scales included; 16 without any.
double bits_per_weight(const nlohmann::json& blocks);

}  // namespace d2q
