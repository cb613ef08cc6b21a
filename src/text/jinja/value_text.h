// Values as text: as a template prints them, as Python shows them inside a list, and as JSON.
#pragma once

#include <optional>
#include <string>

#include "text/jinja/value.h"

namespace d2q::jinja {

/// Python's str(): what {{ value }} prints. Undefined is empty. Throws Error{kUnsupported} for
/// namespaces, macros, loops and functions.
std::string to_text(const Value& value);

/// Python's repr(): texts are quoted.
std::string to_repr(const Value& value);

struct JsonStyle {
  std::optional<int64_t> indent = {};  // spaces a level; absent: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};

/// Python's json.dumps(). Throws Error{kInvalidArgument} for what JSON has no form for.
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace d2q::jinja
