#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/text_functions.h"
#include "text/jinja/value_text.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;

[[noreturn]] void wrong_types(std::string_view op, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->is_undefined()) fail(ErrorCode::kInvalidArgument, "{}", value->why_undefined());
  }
  fail(ErrorCode::kInvalidArgument, "'{}' is not defined for {} and {}", op, left.type_name(),
       right.type_name());
}

[[noreturn]] void too_large(std::string_view op) {
  fail(ErrorCode::kUnsupported, "the result of '{}' has more than 64 bits", op);
}

void require_divisor(bool is_zero) {
  if (is_zero) fail(ErrorCode::kInvalidArgument, "a division by zero");
}

/// Rounds down, and the remainder has the divisor's sign, as in Python.
int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) too_large("**");
  }
  return result;
}

Value integer_operator(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) too_large(op);
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) too_large(op);
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) too_large(op);
  } else if (op == "/") {
    require_divisor(b == 0);
    return Value::number(static_cast<double>(a) / static_cast<double>(b));
  } else if (op == "**") {
    if (b < 0) return Value::number(std::pow(static_cast<double>(a), static_cast<double>(b)));
    result = integer_power(a, b);
  } else {
    require_divisor(b == 0);
    if (b == -1 && a == std::numeric_limits<int64_t>::min()) too_large(op);
    const int64_t quotient = floor_divide(a, b);
    result = op == "//" ? quotient : a - quotient * b;
  }
  return Value::integer(result);
}

Value float_operator(std::string_view op, double a, double b) {
  if (op == "+") return Value::number(a + b);
  if (op == "-") return Value::number(a - b);
  if (op == "*") return Value::number(a * b);
  if (op == "**") return Value::number(std::pow(a, b));
  require_divisor(b == 0.0);
  if (op == "/") return Value::number(a / b);
  if (op == "//") return Value::number(std::floor(a / b));
  return Value::number(a - b * std::floor(a / b));
}

Value repeat(const Value& sequence, int64_t count, Budget& budget) {
  const auto n = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (n > kMaxElements) {
    fail(ErrorCode::kUnsupported, "{} repetitions, the limit is {}", n, kMaxElements);
  }
  if (sequence.is(Kind::kText)) {
    const std::string& text = sequence.as_text();
    budget.spend_bytes(text.size() * n);
    std::string out;
    out.reserve(text.size() * n);
    for (size_t i = 0; i < n; ++i) out += text;
    return Value::text(std::move(out));
  }
  const List& list = sequence.as_list();
  budget.spend_bytes(list.items.size() * n * sizeof(Value));
  std::vector<Value> items;
  items.reserve(list.items.size() * n);
  for (size_t i = 0; i < n; ++i) items.insert(items.end(), list.items.begin(), list.items.end());
  return Value::list(std::move(items), list.is_tuple);
}

Value join_lists(const Value& left, const Value& right, Budget& budget) {
  std::vector<Value> items = iterate(left, budget);
  const std::vector<Value> more = iterate(right, budget);
  items.insert(items.end(), more.begin(), more.end());
  return Value::list(std::move(items), left.as_list().is_tuple);
}

bool is_sequence(const Value& value) { return value.is(Kind::kText) || value.is(Kind::kList); }

}  // namespace

Value apply_operator(std::string_view op, const Value& left, const Value& right, Budget& budget) {
  if (left.is_integral() && right.is_integral()) {
    return integer_operator(op, left.as_integer(), right.as_integer());
  }
  if (left.is_number() && right.is_number()) {
    return float_operator(op, left.as_number(), right.as_number());
  }
  if (op == "+" && left.is(Kind::kText) && right.is(Kind::kText)) {
    budget.spend_bytes(left.as_text().size() + right.as_text().size());
    return Value::text(left.as_text() + right.as_text());
  }
  if (op == "+" && left.is(Kind::kList) && right.is(Kind::kList) &&
      left.as_list().is_tuple == right.as_list().is_tuple) {
    return join_lists(left, right, budget);
  }
  if (op == "*" && is_sequence(left) && right.is_integral()) {
    return repeat(left, right.as_integer(), budget);
  }
  if (op == "*" && left.is_integral() && is_sequence(right)) {
    return repeat(right, left.as_integer(), budget);
  }
  wrong_types(op, left, right);
}

Value negate(const Value& value) {
  if (value.is_integral()) return integer_operator("-", 0, value.as_integer());
  if (value.is_number()) return Value::number(-value.as_number());
  wrong_types("-", value, value);
}

bool compare(std::string_view op, const Value& left, const Value& right, Budget& budget) {
  budget.spend_steps((left.weight() + right.weight()) / 256);
  if (op == "==") return equal(left, right);
  if (op == "!=") return !equal(left, right);
  if (op == "in") return contains(right, left);
  if (op == "not in") return !contains(right, left);
  if (op == "<") return less(left, right);
  if (op == ">") return less(right, left);
  // Not the negation of the other order: NaN is neither.
  if (op == "<=") return less(left, right) || equal(left, right);
  return less(right, left) || equal(left, right);
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  const size_t per_element = value.is(Kind::kText) ? 96 : sizeof(Value);
  size_t n = 0;
  if (value.is(Kind::kText)) n = value.as_text().size();
  if (value.is(Kind::kList)) n = value.as_list().items.size();
  if (value.is(Kind::kDict)) n = 4 * value.as_dict().entries().size();
  budget.spend_bytes(n * per_element);
  budget.spend_steps(n / 8);
  return elements(value);
}

Value make_text(std::string text, Budget& budget) {
  budget.spend_bytes(text.size() + sizeof(std::string));
  return Value::text(std::move(text));
}

std::string print(const Value& value, Budget& budget) {
  budget.spend_bytes(value.weight());
  return to_text(value);
}

Value get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "{}, so it has no '{}'", object.why_undefined(), name);
  }
  if (object.is(Kind::kLoop)) {
    const LoopState& loop = object.as_loop();
    const auto n = static_cast<int64_t>(loop.items.size());
    const auto i = static_cast<int64_t>(loop.index);
    if (name == "index") return Value::integer(i + 1);
    if (name == "index0") return Value::integer(i);
    if (name == "revindex") return Value::integer(n - i);
    if (name == "revindex0") return Value::integer(n - i - 1);
    if (name == "first") return Value::boolean(i == 0);
    if (name == "last") return Value::boolean(i + 1 == n);
    if (name == "length") return Value::integer(n);
    if (name == "depth") return Value::integer(1);
    if (name == "depth0") return Value::integer(0);
    if (name == "previtem" && i > 0) return loop.items[loop.index - 1];
    if (name == "nextitem" && i + 1 < n) return loop.items[loop.index + 1];
  }
  if (has_method(object, name)) return Value::function(std::string(name));
  if (object.is(Kind::kDict)) {
    if (const Value* value = object.as_dict().find(name)) return *value;
  }
  if (object.is(Kind::kNamespace)) {
    if (const Value* value = object.as_namespace().find(name)) return *value;
  }
  return Value::undefined(fmt::format("{} has no '{}'", object.type_name(), name));
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  if (object.is(Kind::kDict) && key.is(Kind::kText)) {
    if (const Value* value = object.as_dict().find(key.as_text())) return *value;
  }
  if (key.is(Kind::kText)) return get_attribute(object, key.as_text());
  if (object.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "{}, so it has no elements", object.why_undefined());
  }
  if (!key.is_integral() || !is_sequence(object)) {
    return Value::undefined(
        fmt::format("{} has no element at {}", object.type_name(), key.type_name()));
  }
  if (object.is(Kind::kText)) budget.spend_steps(object.as_text().size() / 256);
  const size_t size =
      object.is(Kind::kText) ? length(object.as_text()) : object.as_list().items.size();
  int64_t index = key.as_integer();
  if (index < 0) index += static_cast<int64_t>(size);
  if (index < 0 || index >= static_cast<int64_t>(size)) {
    return Value::undefined(fmt::format("{} of {} elements has none at {}", object.type_name(),
                                        size, key.as_integer()));
  }
  const auto at = static_cast<size_t>(index);
  if (object.is(Kind::kList)) return object.as_list().items[at];
  const std::string_view rest =
      std::string_view(object.as_text()).substr(byte_offset(object.as_text(), at));
  return Value::text(std::string(rest.substr(0, byte_offset(rest, 1))));
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step,
                Budget& budget) {
  if (!is_sequence(object)) wrong_types("[:]", object, object);
  const auto part = [](const Value& value, int64_t fallback) {
    if (value.is(Kind::kNone)) return fallback;
    if (!value.is_integral()) {
      fail(ErrorCode::kInvalidArgument, "a slice is made with integers, not {}", value.type_name());
    }
    return value.as_integer();
  };
  const int64_t by = part(step, 1);
  if (by == 0) fail(ErrorCode::kInvalidArgument, "a slice with a step of zero");
  const bool is_text = object.is(Kind::kText);
  const auto size =
      static_cast<int64_t>(is_text ? length(object.as_text()) : object.as_list().items.size());
  const int64_t lowest = by > 0 ? 0 : -1;
  const int64_t highest = by > 0 ? size : size - 1;
  const auto bound = [&](const Value& value, int64_t fallback) {
    int64_t at = part(value, fallback);
    if (!value.is(Kind::kNone) && at < 0) at += size;
    return std::clamp(at, lowest, highest);
  };
  const int64_t first = bound(start, by > 0 ? lowest : highest);
  const int64_t last = bound(stop, by > 0 ? highest : lowest);
  if (is_text && by == 1) {
    const std::string& text = object.as_text();
    if (first >= last) return Value::text("");
    const size_t from = byte_offset(text, static_cast<size_t>(first));
    const auto rest = std::string_view(text).substr(from);
    return make_text(
        std::string(rest.substr(0, byte_offset(rest, static_cast<size_t>(last - first)))), budget);
  }
  const std::vector<Value> items = iterate(object, budget);
  std::vector<Value> chosen;
  // The distance is tested before the step is taken, which may not fit in 64 bits.
  for (int64_t i = first; by > 0 ? i < last : i > last; i += by) {
    chosen.push_back(items[static_cast<size_t>(i)]);
    if (by > 0 ? last - i <= by : last - i >= by) break;
  }
  if (!is_text) return Value::list(std::move(chosen), object.as_list().is_tuple);
  std::string text;
  for (const Value& character : chosen) text += character.as_text();
  return make_text(std::move(text), budget);
}

}  // namespace d2q::jinja
