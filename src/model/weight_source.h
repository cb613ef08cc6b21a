// Lazy access to a model's tensors under one naming scheme, whatever the file. Names are HF's
// ("model.layers.3.mlp.up_proj.weight"); GGUF's are translated by the family table.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "codec/packed_matrix.h"
#include "model/config.h"

namespace d2q {

/// Thread-safe for concurrent reads. Keeps the files mapped while it lives.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  /// "gguf", "hf" or "d2quant".
  virtual std::string format() const = 0;
  virtual bool has(const std::string& name) const = 0;
  /// The tensor as f32 [rows, cols] (1-D: [1, n]); q/k rows in HF's RoPE order. Throws
  /// Error{kNotFound} naming the tensor and the file, Error{kCorrupt} on a wrong shape, and
  /// Error{kNumeric} naming tensor and index on NaN or Inf.
  virtual Matrix<float> load(const std::string& name) const = 0;
  /// The packed codes of "<linear>.weight" in a d2quant folder; nullopt when stored densely.
  virtual std::optional<PackedView> packed(const std::string& name) const = 0;
  /// A hint that these will be loaded next.
  virtual void prefetch(const std::vector<std::string>& names) const { static_cast<void>(names); }
};

/// Opens an HF folder, a GGUF file or a d2quant folder; which one is found out by looking.
std::unique_ptr<WeightSource> open_model(const std::filesystem::path& path);

}  // namespace d2q
