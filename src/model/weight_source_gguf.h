// A GGUF file as a WeightSource.
#pragma once

#include <filesystem>
#include <memory>

#include "model/weight_source.h"

namespace d2q {

std::unique_ptr<WeightSource> open_gguf_model(const std::filesystem::path& path);

}  // namespace d2q
