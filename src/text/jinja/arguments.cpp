#include "text/jinja/arguments.h"

#include <algorithm>

#include "base/error.h"

namespace d2q::jinja {

Parameters::Parameters(std::string_view callee, const Arguments& arguments,
                       std::initializer_list<std::string_view> names)
    : callee_(callee), names_(names), values_(names.size()) {
  if (arguments.positional.size() > names_.size()) {
    fail(ErrorCode::kInvalidArgument, "{}: {} arguments, it takes at most {}", callee,
         arguments.positional.size(), names_.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    const auto known = std::ranges::find(names_, name);
    if (known == names_.end()) {
      fail(ErrorCode::kInvalidArgument, "{}: it has no parameter '{}'", callee, name);
    }
    values_[static_cast<size_t>(known - names_.begin())] = &value;
  }
}

const Value& Parameters::at(size_t i) const {
  if (values_[i] == nullptr) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is missing", callee_, names_[i]);
  }
  return *values_[i];
}

const std::string& Parameters::text(size_t i) const {
  const Value& value = at(i);
  if (!value.is(Value::Kind::kText)) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is {}, expected text", callee_, names_[i],
         value.type_name());
  }
  return value.as_text();
}

std::optional<std::string_view> Parameters::optional_text(size_t i) const {
  if (find(i) == nullptr || find(i)->is(Value::Kind::kNone)) return std::nullopt;
  return text(i);
}

int64_t Parameters::integer(size_t i, int64_t fallback) const {
  const Value* value = find(i);
  if (value == nullptr || value->is(Value::Kind::kNone)) return fallback;
  if (!value->is_integral()) {
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is {}, expected an integer", callee_, names_[i],
         value->type_name());
  }
  return value->as_integer();
}

bool Parameters::truth(size_t i, bool fallback) const {
  return find(i) == nullptr ? fallback : find(i)->truth();
}

}  // namespace d2q::jinja
