// Tensors loaded ahead on a thread of their own, while a device works on what came before.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "model/weight_source.h"

namespace d2q {

/// Hands out its base's tensors. Loads of the base never overlap, so it need not be thread-safe.
class PrefetchedSource final : public WeightSource {
 public:
  explicit PrefetchedSource(std::shared_ptr<const WeightSource> base) : base_(std::move(base)) {}
  ~PrefetchedSource() override;

  const ModelConfig& config() const override { return base_->config(); }
  std::string format() const override { return base_->format(); }
  bool has(const std::string& name) const override { return base_->has(name); }
  std::optional<PackedView> packed(const std::string& name) const override {
    return base_->packed(name);
  }
  /// A tensor that was asked for ahead is given away, waiting for it if need be; what went wrong
  /// with it is thrown here.
  Matrix<float> load(const std::string& name) const override;
  /// Returns at once; drops what an earlier call asked for and nobody took.
  void prefetch(const std::vector<std::string>& names) const override;

 private:
  struct Entry {
    std::optional<Matrix<float>> values;  // once loaded
    std::exception_ptr failure;
  };
  void stop() const;

  std::shared_ptr<const WeightSource> base_;
  mutable std::mutex loading_;  // held while the base loads
  mutable std::mutex mutex_;    // of what follows
  mutable std::condition_variable changed_;
  mutable std::map<std::string, Entry> entries_;
  mutable bool stopping_ = false;
  mutable std::thread thread_;
};

}  // namespace d2q
