// METHOD.md §1: fuse the norms' gains, untie the head and rotate the residual stream, tensor by
// tensor as they are loaded, so that nothing but the tensor in hand is ever expanded.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/thread_pool.h"
#include "linalg/rotation.h"
#include "model/weight_source.h"

namespace d2q {

/// A model with the same logits as its base (rounding apart) whose residual stream is rotated and
/// whose norms have gain 1. load() runs on the pool: call it from one thread at a time.
class PreparedSource final : public WeightSource {
 public:
  /// Throws Error{kUnsupported} for families whose norms subtract a mean or that learn positions:
  /// rotating those is not an identity. The same for a model whose norms have a bias.
  PreparedSource(std::shared_ptr<const WeightSource> base, Rotation rotation, ThreadPool& pool);

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override;
  Matrix<float> load(const std::string& name) const override;
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  enum class Role { kNorm, kReader, kWriter, kEmbedding };
  struct Place {
    Role role;
    std::string norm;  // the norm whose gain a reader takes over
  };

  std::shared_ptr<const WeightSource> base_;
  Rotation rotation_;
  ThreadPool& pool_;
  ModelConfig config_;
  std::unordered_map<std::string, Place> places_;  // by module name, without ".weight" or ".bias"
};

}  // namespace d2q
