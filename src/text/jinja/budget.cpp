#include "text/jinja/budget.h"

#include "base/error.h"

namespace d2q::jinja {

void Budget::spend_steps(uint64_t n) {
  if (n > limits_.max_steps - steps_) {
    fail(ErrorCode::kUnsupported, "more than {} steps; an endless or hostile template?",
         limits_.max_steps);
  }
  steps_ += n;
}

void Budget::spend_bytes(size_t n_bytes) {
  if (n_bytes > limits_.max_bytes - bytes_) {
    fail(ErrorCode::kUnsupported, "more than {} bytes of values; a hostile template?",
         limits_.max_bytes);
  }
  bytes_ += n_bytes;
  spend_steps(n_bytes / 256);
}

void Budget::check_output(size_t n_bytes) const {
  if (n_bytes > limits_.max_output_bytes) {
    fail(ErrorCode::kUnsupported, "more than {} bytes of output; a hostile template?",
         limits_.max_output_bytes);
  }
}

void Budget::enter() {
  if (depth_ >= limits_.max_depth) {
    fail(ErrorCode::kUnsupported, "it nests deeper than {} levels; a macro that calls itself?",
         limits_.max_depth);
  }
  ++depth_;
}

}  // namespace d2q::jinja
