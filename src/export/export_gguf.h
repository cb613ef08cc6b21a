// A model as a GGUF file for llama.cpp.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/progress.h"
#include "format/gguf.h"

namespace d2q {

struct GgufExportOptions {
  /// kF32, kF16, kBF16 or kQ8_0 for matrices (f16 where rows are no whole blocks), or kQ2_0: packed
  /// linears as they are, to the bit, the rest in f16.
  GgufType type = GgufType::kF16;
  std::string name;          // general.name; empty: the model's file name
  bool drop_shifts = false;  // leave out shifts of norms that the architecture has no place for
  bool overwrite = false;
};

/// Writes `model` (any that open_model() opens) with its tokenizer to `output`, which appears when
/// it is complete. Returns what was done, as export_hf() does. Throws Error{kInvalidArgument} when
/// `output` exists and not `overwrite`, Error{kUnsupported} when llama.cpp has no such
/// architecture, rope scaling or tokenizer, or when kQ2_0 does not hold a packed linear exactly.
nlohmann::json export_gguf(const std::filesystem::path& model, const std::filesystem::path& output,
                           const GgufExportOptions& options, const ProgressSink& progress);

}  // namespace d2q
