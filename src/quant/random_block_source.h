// A model of random dense weights in any shape, for measuring how fast real sizes are quantized.
#pragma once

#include <string>
#include <vector>

#include "model/weight_source.h"

namespace d2q {

/// Normal weights of deviation 1/√inputs, gains of 1; no embedding and no head. All blocks have the
/// same weights, cut from one table, so that making them costs no more than reading them would.
class RandomBlockSource final : public WeightSource {
 public:
  RandomBlockSource(ModelConfig config, uint64_t seed);

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return "random"; }
  bool has(const std::string& name) const override;
  Matrix<float> load(const std::string& name) const override;
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  struct Shape {
    int64_t rows = 0;  // 0: no such tensor
    int64_t cols = 0;
  };
  Shape shape_of(const std::string& name) const;

  ModelConfig config_;
  std::vector<float> normals_;
};

}  // namespace d2q
