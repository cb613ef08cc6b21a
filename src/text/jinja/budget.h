// What a template may use up before it is taken for hostile or broken.
#pragma once

#include <cstddef>
#include <cstdint>

namespace d2q::jinja {

struct RenderLimits {
  uint64_t max_steps = 5'000'000;        // expressions, statements, and 256-byte pieces of text
  size_t max_bytes = size_t{256} << 20;  // of texts, lists and scopes made, kept or not
  size_t max_output_bytes = size_t{64} << 20;  // of the rendered text
  int max_depth = 250;                         // expressions and statements inside each other
};

/// Counts what one rendering uses. Every function throws Error{kUnsupported} at its limit.
class Budget {
 public:
  explicit Budget(const RenderLimits& limits) : limits_(limits) {}

  void spend_steps(uint64_t n = 1);
  /// Memory about to be taken; also the steps to fill it.
  void spend_bytes(size_t n_bytes);
  void check_output(size_t n_bytes) const;
  void enter();
  void leave() noexcept { --depth_; }

 private:
  RenderLimits limits_;
  uint64_t steps_ = 0;
  size_t bytes_ = 0;
  int depth_ = 0;
};

/// One level of depth for as long as it lives.
class DepthGuard {
 public:
  explicit DepthGuard(Budget& budget) : budget_(budget) { budget_.enter(); }
  ~DepthGuard() { budget_.leave(); }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  Budget& budget_;
};

}  // namespace d2q::jinja
