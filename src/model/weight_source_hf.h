// An HF folder or a d2quant folder (both are config.json and safetensors) as a WeightSource.
#pragma once

#include <filesystem>
#include <memory>

#include "model/weight_source.h"

namespace d2q {

std::unique_ptr<WeightSource> open_hf_model(const std::filesystem::path& folder);

}  // namespace d2q
