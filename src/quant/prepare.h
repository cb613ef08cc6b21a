// METHOD.md §1: fuse the norms' gains, untie the head and rotate the residual stream, tensor by
// tensor as they are loaded, so that nothing but the tensor in hand is ever expanded. A norm's
// shift becomes a bias of the linears that read it; the final norm, whose reader has no place for
// one, keeps its shift in the rotated channels, divided by the gain that the head takes over.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/thread_pool.h"
#include "linalg/rotation.h"
#include "model/weight_source.h"
#include "quant/options.h"

namespace d2q {

/// A model with the same logits as its base (rounding apart) whose residual stream is rotated and
/// whose norms have gain 1. load() runs on the pool: call it from one thread at a time.
class PreparedSource final : public WeightSource {
 public:
  /// `rotation` must keep the mean where the family's norms subtract one (InternalError otherwise).
  PreparedSource(std::shared_ptr<const WeightSource> base, Rotation rotation, ThreadPool& pool);

  const ModelConfig& config() const override { return config_; }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override;
  Matrix<float> load(const std::string& name) const override;
  std::optional<PackedView> packed(const std::string&) const override { return std::nullopt; }

 private:
  enum class Role { kNorm, kFinalNorm, kReader, kHead, kWriter, kEmbedding };
  struct Place {
    Role role;
    std::string norm;  // the norm whose gain (and, but for the head, shift) a reader takes over
  };

  const Place* find(const std::string& name) const;
  Matrix<float> reader_bias(const std::string& name, const std::string& norm) const;
  Matrix<float> final_shift(const std::string& norm) const;

  std::shared_ptr<const WeightSource> base_;
  Rotation rotation_;
  ThreadPool& pool_;
  ModelConfig config_;
  std::unordered_map<std::string, Place> places_;  // by module name, without ".weight" or ".bias"
};

/// `base` as the options want it: rotated, or itself.
std::shared_ptr<const WeightSource> prepared(std::shared_ptr<const WeightSource> base,
                                             const QuantizeOptions& options, ThreadPool& pool);

}  // namespace d2q
