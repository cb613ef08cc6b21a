// Wrong usage found after parsing: exit code 2 instead of 1.
#pragma once

#include <stdexcept>
#include <utility>

#include "base/error.h"

namespace d2q::cli {

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Runs a check of options: what the library calls an invalid argument is wrong usage here.
template <typename Check>
decltype(auto) as_usage(Check&& check) {
  try {
    return std::forward<Check>(check)();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    throw UsageError(error.what());
  }
}

}  // namespace d2q::cli
