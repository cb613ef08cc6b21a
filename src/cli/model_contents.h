// The tensors of a model's files, without their weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "codec/packed_matrix.h"
#include "model/weight_source.h"

namespace d2q::cli {

struct TensorEntry {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;  // of the weights that the tensor stands for
  int64_t n_bytes = 0;
  std::optional<PackedLayout> layout;

  int64_t n_weights() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

struct TensorTotals {
  int64_t n_weights = 0;
  int64_t n_bytes = 0;
  double bits_per_weight() const {
    return n_weights == 0 ? 0.0
                          : 8.0 * static_cast<double>(n_bytes) / static_cast<double>(n_weights);
  }
  void add(const TensorEntry& entry) {
    n_weights += entry.n_weights();
    n_bytes += entry.n_bytes;
  }
};

/// What `path`, opened as `source`, holds; codes and scales of a packed linear are one entry under
/// the weight's name.
std::vector<TensorEntry> list_tensors(const WeightSource& source,
                                      const std::filesystem::path& path);

/// Weights and bytes of the linears inside the blocks: what quantization is about.
TensorTotals block_linears(const std::vector<TensorEntry>& entries);

/// Bytes of a model's file, or of all files in its folder.
int64_t size_on_disk(const std::filesystem::path& path);

}  // namespace d2q::cli
