#include <unordered_map>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/text_functions.h"
#include "text/jinja/value_text.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;

int64_t integer_of(std::string_view test, const Value& value) {
  if (!value.is_integral()) {
    fail(ErrorCode::kInvalidArgument, "'is {}' wants an integer, not {}", test, value.type_name());
  }
  return value.as_integer();
}

bool is_sequence(const Value& value) {
  return value.is(Kind::kText) || value.is(Kind::kList) || value.is(Kind::kDict);
}

bool is_same_object(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.is(Kind::kText)) return &a.as_text() == &b.as_text();
  if (a.is(Kind::kList)) return &a.as_list() == &b.as_list();
  if (a.is(Kind::kDict)) return &a.as_dict() == &b.as_dict();
  return equal(a, b);
}

/// The comparison that the test's name stands for, or "".
std::string_view comparison_of(std::string_view name) {
  static const std::unordered_map<std::string_view, std::string_view> names = {
      {"==", "=="},         {"eq", "=="}, {"equalto", "=="}, {"!=", "!="},
      {"ne", "!="},         {"<", "<"},   {"lt", "<"},       {"lessthan", "<"},
      {"<=", "<="},         {"le", "<="}, {">", ">"},        {"gt", ">"},
      {"greaterthan", ">"}, {">=", ">="}, {"ge", ">="},      {"in", "in"}};
  const auto found = names.find(name);
  return found == names.end() ? std::string_view() : found->second;
}

using Test = bool (*)(const Value&);

const std::unordered_map<std::string_view, Test>& tests() {
  static const std::unordered_map<std::string_view, Test> table = {
      {"defined", [](const Value& v) { return !v.is_undefined(); }},
      {"undefined", [](const Value& v) { return v.is_undefined(); }},
      {"none", [](const Value& v) { return v.is(Kind::kNone); }},
      {"string", [](const Value& v) { return v.is(Kind::kText); }},
      {"mapping", [](const Value& v) { return v.is(Kind::kDict); }},
      {"sequence", [](const Value& v) { return is_sequence(v) || v.is_undefined(); }},
      {"iterable",
       [](const Value& v) { return is_sequence(v) || v.is_undefined() || v.is(Kind::kLoop); }},
      {"boolean", [](const Value& v) { return v.is(Kind::kBoolean); }},
      {"true", [](const Value& v) { return v.is(Kind::kBoolean) && v.as_boolean(); }},
      {"false", [](const Value& v) { return v.is(Kind::kBoolean) && !v.as_boolean(); }},
      {"number", [](const Value& v) { return v.is_number(); }},
      {"integer", [](const Value& v) { return v.is(Kind::kInteger); }},
      {"float", [](const Value& v) { return v.is(Kind::kFloat); }},
      {"callable",
       [](const Value& v) {
         return v.is(Kind::kFunction) || v.is(Kind::kMacro) || v.is(Kind::kLoop);
       }},
      {"odd", [](const Value& v) { return integer_of("odd", v) % 2 != 0; }},
      {"even", [](const Value& v) { return integer_of("even", v) % 2 == 0; }},
  };
  return table;
}

}  // namespace

bool apply_test(std::string_view name, const Value& value, const Arguments& arguments,
                Budget& budget) {
  budget.spend_steps();
  const auto simple = tests().find(name);
  if (simple != tests().end()) {
    const Parameters parameters(name, arguments, {});
    return simple->second(value);
  }
  if (name == "upper" || name == "lower") {
    const Parameters parameters(name, arguments, {});
    return call_method(Value::text(print(value, budget)), name == "upper" ? "isupper" : "islower",
                       {}, budget)
        .truth();
  }
  const std::string_view comparison = comparison_of(name);
  if (!comparison.empty()) {
    const Parameters parameters(name, arguments, {"other"});
    return compare(comparison, value, parameters.at(0), budget);
  }
  if (name == "sameas") {
    const Parameters parameters(name, arguments, {"other"});
    return is_same_object(value, parameters.at(0));
  }
  if (name == "divisibleby") {
    const Parameters parameters(name, arguments, {"num"});
    return !apply_operator("%", value, parameters.at(0), budget).truth();
  }
  fail(ErrorCode::kUnsupported, "the test '{}' is not supported", name);
}

}  // namespace d2q::jinja
