#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/jinja/renderer.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;

constexpr std::array<std::string_view, 5> kGlobals = {"range", "dict", "namespace",
                                                      "raise_exception", "strftime_now"};

}  // namespace

Value Renderer::look_up(const std::string& name, const Scope& scope) const {
  if (const Value* value = scope.find(name)) return *value;
  if (std::ranges::find(kGlobals, name) != kGlobals.end()) return Value::function(name);
  return Value::undefined("'" + name + "' is undefined");
}

std::vector<Value> Renderer::evaluate_all(const std::vector<ExpressionPtr>& expressions,
                                          size_t first, Scope& scope) {
  std::vector<Value> values;
  values.reserve(expressions.size() - first);
  for (size_t i = first; i < expressions.size(); ++i) {
    values.push_back(evaluate(*expressions[i], scope));
  }
  budget_.spend_bytes(values.size() * sizeof(Value));
  return values;
}

Value Renderer::evaluate(const Expression& expression, Scope& scope) {
  const DepthGuard depth(budget_);
  budget_.spend_steps();
  line_ = expression.line;
  const auto child = [&](size_t i) { return evaluate(*expression.children[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.value;
    case ExpressionKind::kName:
      return look_up(expression.name, scope);
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
      return Value::list(evaluate_all(expression.children, 0, scope),
                         expression.kind == ExpressionKind::kTuple);
    case ExpressionKind::kDict:
      return evaluate_dict(expression, scope);
    case ExpressionKind::kNot:
      return Value::boolean(!child(0).truth());
    case ExpressionKind::kNegate:
      return negate(child(0));
    case ExpressionKind::kPlus:
      return apply_operator("+", Value::integer(0), child(0), budget_);
    case ExpressionKind::kAnd: {
      Value left = child(0);
      return left.truth() ? child(1) : left;
    }
    case ExpressionKind::kOr: {
      Value left = child(0);
      return left.truth() ? left : child(1);
    }
    case ExpressionKind::kBinary: {
      const Value left = child(0);
      return apply_operator(expression.name, left, child(1), budget_);
    }
    case ExpressionKind::kConcat: {
      std::string text;
      for (size_t i = 0; i < expression.children.size(); ++i) text += print(child(i), budget_);
      return Value::text(std::move(text));
    }
    case ExpressionKind::kCompare:
      return evaluate_compare(expression, scope);
    case ExpressionKind::kConditional:
      if (child(1).truth()) return child(0);
      return expression.children[2] ? child(2) : Value::undefined("an 'if' without 'else'");
    case ExpressionKind::kAttribute:
      return get_attribute(child(0), expression.name);
    case ExpressionKind::kItem: {
      const Value object = child(0);
      return get_item(object, child(1), budget_);
    }
    case ExpressionKind::kSlice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::kCall:
      return evaluate_call(expression, scope);
    case ExpressionKind::kFilter: {
      const Value input = child(0);
      const Arguments arguments = arguments_of(expression, scope);
      line_ = expression.line;
      return apply_filter(expression.name, input, arguments, budget_);
    }
    case ExpressionKind::kTest: {
      const Value value = child(0);
      return Value::boolean(
          apply_test(expression.name, value, arguments_of(expression, scope), budget_));
    }
  }
  return {};
}

Value Renderer::evaluate_dict(const Expression& expression, Scope& scope) {
  std::vector<Dict::Entry> entries;
  for (size_t i = 0; i < expression.children.size(); i += 2) {
    const Value key = evaluate(*expression.children[i], scope);
    if (!key.is(Kind::kText)) {
      fail(ErrorCode::kUnsupported, "a dictionary's key that is {}, not text,", key.type_name());
    }
    budget_.spend_bytes(key.weight() + 2 * sizeof(Value));
    entries.emplace_back(key.as_text(), evaluate(*expression.children[i + 1], scope));
  }
  return Value::dict(std::move(entries));
}

Value Renderer::evaluate_compare(const Expression& expression, Scope& scope) {
  Value left = evaluate(*expression.children[0], scope);
  for (size_t i = 0; i < expression.names.size(); ++i) {
    Value right = evaluate(*expression.children[i + 1], scope);
    if (!compare(expression.names[i], left, right, budget_)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Renderer::evaluate_slice(const Expression& expression, Scope& scope) {
  std::array<Value, 4> parts;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& child = expression.children[i];
    parts[i] = child ? evaluate(*child, scope) : Value::none();
  }
  return get_slice(parts[0], parts[1], parts[2], parts[3], budget_);
}

Arguments Renderer::arguments_of(const Expression& call, Scope& scope) {
  Arguments arguments;
  arguments.positional = evaluate_all(call.children, 1, scope);
  for (const auto& [name, value] : call.keywords) {
    arguments.keywords.emplace_back(name, evaluate(*value, scope));
  }
  return arguments;
}

Value Renderer::evaluate_call(const Expression& expression, Scope& scope) {
  const Expression& callee = *expression.children[0];
  if (callee.kind == ExpressionKind::kAttribute) {
    const Value object = evaluate(*callee.children[0], scope);
    const Arguments arguments = arguments_of(expression, scope);
    line_ = expression.line;
    return call_method(object, callee.name, arguments, budget_);
  }
  const Value function = evaluate(callee, scope);
  const Arguments arguments = arguments_of(expression, scope);
  line_ = expression.line;
  if (function.is(Kind::kMacro)) return call_macro(function.as_macro(), arguments);
  if (function.is(Kind::kFunction)) return call_global(function.as_function().name, arguments);
  if (function.is_undefined()) fail(ErrorCode::kInvalidArgument, "{}", function.why_undefined());
  fail(ErrorCode::kInvalidArgument, "{} cannot be called", function.type_name());
}

Value Renderer::call_macro(const Macro& macro, const Arguments& arguments) {
  const Statement& definition = macro.definition;
  if (arguments.positional.size() > definition.parameters.size()) {
    fail(ErrorCode::kInvalidArgument, "macro '{}': {} arguments, it takes {}", definition.text,
         arguments.positional.size(), definition.parameters.size());
  }
  for (const auto& [name, value] : arguments.keywords) {
    const bool known = std::ranges::any_of(
        definition.parameters,
        [&, &name = name](const auto& parameter) { return parameter.first == name; });
    if (!known) {
      fail(ErrorCode::kInvalidArgument, "macro '{}': it has no parameter '{}'", definition.text,
           name);
    }
  }
  Scope scope(&macro.scope);
  for (size_t i = 0; i < definition.parameters.size(); ++i) {
    const auto& [name, fallback] = definition.parameters[i];
    Value value = Value::undefined("parameter '" + name + "' was not given");
    if (i < arguments.positional.size()) {
      value = arguments.positional[i];
    } else {
      const auto given = std::ranges::find_if(
          arguments.keywords,
          [&, &name = name](const auto& keyword) { return keyword.first == name; });
      if (given != arguments.keywords.end()) {
        value = given->second;
      } else if (fallback) {
        value = evaluate(*fallback, scope);
      }
    }
    scope.set(name, std::move(value));
  }
  return Value::text(capture(definition.body, scope));
}

Value Renderer::call_global(const std::string& name, const Arguments& arguments) {
  if (name == "range") return make_range(arguments);
  if (name == "strftime_now") return format_time(arguments);
  if (name == "namespace") return make_namespace(arguments);
  if (name == "raise_exception") {
    const Parameters parameters(name, arguments, {"message"});
    fail(ErrorCode::kInvalidArgument, "{}", print(parameters.at(0), budget_));
  }
  if (name == "dict") {
    std::vector<Dict::Entry> entries;
    if (!arguments.positional.empty() && arguments.positional[0].is(Kind::kDict)) {
      entries = arguments.positional[0].as_dict().entries();
    }
    entries.insert(entries.end(), arguments.keywords.begin(), arguments.keywords.end());
    budget_.spend_bytes(entries.size() * 2 * sizeof(Value));
    return Value::dict(std::move(entries));
  }
  fail(ErrorCode::kUnsupported, "a method in a variable ('{}') cannot be called", name);
}

Value Renderer::make_namespace(const Arguments& arguments) {
  budget_.spend_bytes(sizeof(Namespace));
  Namespace& members = namespaces_.emplace_back();
  if (!arguments.positional.empty() && arguments.positional[0].is(Kind::kDict)) {
    for (const auto& [name, value] : arguments.positional[0].as_dict().entries()) {
      budget_.spend_steps(members.members.size());
      members.set(name, value);
    }
  }
  for (const auto& [name, value] : arguments.keywords) members.set(name, value);
  return Value::of(&members);
}

Value Renderer::make_range(const Arguments& arguments) {
  constexpr int64_t kMaxRange = 100'000;  // of the sandbox that templates are written for
  const Parameters parameters("range", arguments, {"start", "stop", "step"});
  if (parameters.find(0) == nullptr) fail(ErrorCode::kInvalidArgument, "range: no end");
  const bool has_start = parameters.find(1) != nullptr;
  const int64_t start = has_start ? parameters.integer(0, 0) : 0;
  const int64_t stop = parameters.integer(has_start ? 1 : 0, 0);
  const int64_t step = parameters.integer(2, 1);
  if (step == 0) fail(ErrorCode::kInvalidArgument, "range: a step of zero");
  std::vector<Value> values;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(values.size()) == kMaxRange) {
      fail(ErrorCode::kUnsupported, "range: more than {} numbers", kMaxRange);
    }
    values.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  budget_.spend_bytes(values.size() * sizeof(Value));
  return Value::list(std::move(values));
}

Value Renderer::format_time(const Arguments& arguments) {
  const Parameters parameters("strftime_now", arguments, {"format"});
  const std::string& format = parameters.text(0);
  if (format.size() > 256) fail(ErrorCode::kUnsupported, "strftime_now: a format above 256 bytes");
  if (format.empty()) return Value::text("");
  std::array<char, 8192> buffer{};
  // The format is the template's by design; strftime reads nothing but the time.
  const size_t n = std::strftime(buffer.data(), buffer.size(), format.c_str(), &now_);
  return Value::text(std::string(buffer.data(), n));
}

}  // namespace d2q::jinja
