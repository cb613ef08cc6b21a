// Arguments of calls, filters and tests, and how a callee reads them.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace d2q::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

/// The arguments by the parameters' positions, given by position or by name.
class Parameters {
 public:
  /// Throws Error{kInvalidArgument}, naming `callee`, for too many arguments or an unknown name.
  Parameters(std::string_view callee, const Arguments& arguments,
             std::initializer_list<std::string_view> names);

  /// Null when it was not given.
  const Value* find(size_t i) const { return values_[i]; }
  /// All below throw Error{kInvalidArgument} on a missing argument or another type.
  const Value& at(size_t i) const;
  const std::string& text(size_t i) const;
  /// nullopt for one that is not given or none.
  std::optional<std::string_view> optional_text(size_t i) const;
  int64_t integer(size_t i, int64_t fallback) const;
  bool truth(size_t i, bool fallback) const;

 private:
  std::string_view callee_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

}  // namespace d2q::jinja
