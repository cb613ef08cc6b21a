// What templates can call: filters, tests, methods, operators and global functions.
#pragma once

#include <ctime>
#include <string>
#include <string_view>

#include "text/jinja/arguments.h"
#include "text/jinja/budget.h"
#include "text/jinja/value.h"

namespace d2q::jinja {

/// `input | name(arguments)`. Throws Error{kUnsupported} for an unknown filter,
/// Error{kInvalidArgument} for values it is not made for.
Value apply_filter(std::string_view name, const Value& input, const Arguments& arguments,
                   Budget& budget);

/// `value is name(arguments)`. Throws as apply_filter does.
bool apply_test(std::string_view name, const Value& value, const Arguments& arguments,
                Budget& budget);

/// `object.name(arguments)` of texts, lists, dictionaries and loops.
Value call_method(const Value& object, std::string_view name, const Arguments& arguments,
                  Budget& budget);
/// Whether call_method knows it.
bool has_method(const Value& object, std::string_view name);

/// `object.name`: a method before a key; undefined when it has neither.
Value get_attribute(const Value& object, std::string_view name);
/// `object[key]`.
Value get_item(const Value& object, const Value& key, Budget& budget);
/// `object[start:stop:step]`; none where a part is absent.
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step,
                Budget& budget);

/// `left op right` for + - * / // % **. Throws Error{kInvalidArgument} for other types, a division
/// by zero, and a result beyond 64 bits.
Value apply_operator(std::string_view op, const Value& left, const Value& right, Budget& budget);
Value negate(const Value& value);
/// One of == != < <= > >= in "not in".
bool compare(std::string_view op, const Value& left, const Value& right, Budget& budget);

/// elements(), paid for.
std::vector<Value> iterate(const Value& value, Budget& budget);
/// A text, paid for.
Value make_text(std::string text, Budget& budget);
/// to_text(), paid for.
std::string print(const Value& value, Budget& budget);

/// A loop as its body sees it.
struct LoopState {
  const std::vector<Value>& items;
  size_t index = 0;
  Value last_changed = {};  // a tuple of what changed() saw last
};

}  // namespace d2q::jinja
