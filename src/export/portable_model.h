// A model as other software can hold it: dense weights under an architecture's own names, with the
// shifts that quantization gives to RMSNorms (METHOD.md §6, §9) moved into biases of the linears
// behind them where the architecture has such biases.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "model/weight_source.h"

namespace d2q {

enum class ExportTarget { kHuggingFace, kGguf };

/// One tensor; `name` is HF's, fused where the architecture's files fuse it.
struct PortableTensor {
  std::string name;
  std::vector<int64_t> shape;  // [out, in] or [n]
};

class PortableModel {
 public:
  /// With `drop_shifts` the shifts that have no place are left out. Throws Error{kUnsupported}
  /// naming the norms when there are such shifts and they may not be dropped, and when the target
  /// has no such architecture at all.
  PortableModel(std::shared_ptr<const WeightSource> source, ExportTarget target, bool drop_shifts);

  /// The exported family may be another row of the table that computes the same (Mistral without a
  /// window as LLaMA, which has biases).
  const ModelConfig& config() const noexcept { return config_; }
  const std::vector<PortableTensor>& tensors() const noexcept { return tensors_; }
  /// The tensor's values; one of tensors().
  Matrix<float> load(const std::string& name) const;

  /// Whether every linear of the half has a bias that config.json must announce.
  bool attention_bias() const noexcept { return attention_bias_; }
  bool mlp_bias() const noexcept { return mlp_bias_; }
  /// Norms whose shift became biases, and those whose shift was left out.
  const std::vector<std::string>& moved_shifts() const noexcept { return moved_; }
  const std::vector<std::string>& dropped_shifts() const noexcept { return dropped_; }

 private:
  void place_shifts(ExportTarget target, bool drop_shifts);
  void list_tensors();
  void add_linear(const std::string& module, int64_t rows, int64_t cols, bool biased);
  void add_norm(const std::string& module, int64_t width);
  bool has_shift(const std::string& norm) const;
  std::string norm_of(const std::string& module) const;
  Matrix<float> load_part(const std::string& name) const;

  std::shared_ptr<const WeightSource> source_;
  ModelConfig config_;
  std::vector<PortableTensor> tensors_;
  std::vector<std::string> moved_;
  std::vector<std::string> dropped_;
  bool attention_bias_ = false;
  bool mlp_bias_ = false;
};

}  // namespace d2q
