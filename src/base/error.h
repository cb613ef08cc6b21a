// The two kinds of failure: Error is wrong input (files, flags, machine), InternalError is our bug.
// The library throws; only cli/ catches and reports.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace d2q {

enum class ErrorCode {
  kInvalidArgument,  // a flag, option or request that cannot be met
  kNotFound,         // a file, tensor or key that is not there
  kCorrupt,          // a file that contradicts itself or is cut short
  kUnsupported,      // a well-formed input of a kind that is not handled
  kIo,               // the operating system refused: disk full, permission, ...
  kNumeric,          // NaN, Inf or a matrix that cannot be factorised
  kInterrupted,      // the user asked to stop
};

/// Wrong input. The message names the subject, what was found against what was expected, and the
/// likely cause, in one sentence.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

/// A broken promise inside the program. Thrown by D2Q_CHECK with the place in the source.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Throws Error with a formatted message.
template <typename... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);

}  // namespace d2q

/// Always on, once per call at a module's edge: D2Q_CHECK(a == b, "rows {} against {}", a, b).
#define D2Q_CHECK(condition, ...)                                                      \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      ::d2q::check_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
    }                                                                                  \
  } while (false)

/// For inner loops: on in builds without NDEBUG only.
#ifdef NDEBUG
#define D2Q_DCHECK(condition, ...) \
  do {                             \
  } while (false)
#else
#define D2Q_DCHECK(condition, ...) D2Q_CHECK(condition, __VA_ARGS__)
#endif
