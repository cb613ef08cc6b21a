// Arithmetic on sizes that come from files: overflow is the file's lie, so it throws
// Error{kCorrupt}.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace d2q {

/// a * b, or Error{kCorrupt} naming `context` when the product does not fit.
inline uint64_t checked_mul(uint64_t a, uint64_t b, std::string_view context) {
  uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) {
    fail(ErrorCode::kCorrupt, "{}: size {} x {} overflows; corrupt file?", context, a, b);
  }
  return result;
}

/// a + b, or Error{kCorrupt} naming `context` when the sum does not fit.
inline uint64_t checked_add(uint64_t a, uint64_t b, std::string_view context) {
  uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) {
    fail(ErrorCode::kCorrupt, "{}: size {} + {} overflows; corrupt file?", context, a, b);
  }
  return result;
}

}  // namespace d2q
