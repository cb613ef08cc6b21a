// A model as an ordinary Hugging Face folder.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/progress.h"
#include "format/safetensors.h"

namespace d2q {

struct HfExportOptions {
  SafetensorsType dtype = SafetensorsType::kF16;  // kF16, kBF16 or kF32
  bool drop_shifts = false;  // leave out shifts of norms that the architecture has no place for
  bool overwrite = false;
  int64_t shard_bytes = int64_t{4} << 30;  // of weights a file, but for a larger tensor
};

/// Writes config.json, tokenizer files and weights of `model` (any that open_model() opens) to
/// `output`, which appears under its name when it is complete. Returns what was done: {"output",
/// "format", "dtype", "tensors", "bytes", "files", "family", "shifts_moved", "shifts_dropped"}.
/// Throws Error{kInvalidArgument} when `output` exists and not `overwrite`, and as PortableModel
/// does.
nlohmann::json export_hf(const std::filesystem::path& model, const std::filesystem::path& output,
                         const HfExportOptions& options, const ProgressSink& progress);

}  // namespace d2q
