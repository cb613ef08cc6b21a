#include "text/jinja/value.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q::jinja {
namespace {

/// Loops and macros end before the containers that could hold them.
void require_storable(const Value& value) {
  if (value.is(Value::Kind::kLoop) || value.is(Value::Kind::kMacro)) {
    fail(ErrorCode::kUnsupported, "{} inside a list, dictionary or namespace is not supported",
         value.type_name());
  }
}

}  // namespace

Value Value::undefined(std::string why) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(why))});
}

Value Value::list(std::vector<Value> items, bool is_tuple) {
  Extent extent;
  for (const Value& item : items) extent.add(item);
  return Value(std::make_shared<const List>(List{std::move(items), is_tuple, extent}));
}

Value Value::dict(std::vector<std::pair<std::string, Value>> entries) {
  return Value(std::make_shared<const Dict>(std::move(entries)));
}

Value Value::from_json(const nlohmann::ordered_json& json) {
  if (json.is_null() || json.is_discarded()) return none();
  if (json.is_boolean()) return boolean(json.get<bool>());
  if (json.is_number_unsigned()) {
    const auto value = json.get<uint64_t>();
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail(ErrorCode::kUnsupported, "the integer {} has more than 64 bits", value);
    }
    return integer(static_cast<int64_t>(value));
  }
  if (json.is_number_integer()) return integer(json.get<int64_t>());
  if (json.is_number()) return number(json.get<double>());
  if (json.is_string()) return text(json.get<std::string>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(from_json(item));
    return list(std::move(items));
  }
  std::vector<Dict::Entry> entries;
  for (const auto& [key, item] : json.items()) entries.emplace_back(key, from_json(item));
  return dict(std::move(entries));
}

std::string Value::why_undefined() const {
  const auto* missing = std::get_if<Undefined>(&data_);
  return missing != nullptr && missing->why ? *missing->why : "a value is undefined";
}

int64_t Value::as_integer() const {
  if (const bool* value = std::get_if<bool>(&data_)) return *value ? 1 : 0;
  return std::get<int64_t>(data_);
}

double Value::as_number() const {
  if (const double* value = std::get_if<double>(&data_)) return *value;
  return static_cast<double>(as_integer());
}

bool Value::truth() const {
  switch (kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBoolean:
    case Kind::kInteger:
      return as_integer() != 0;
    case Kind::kFloat:
      return as_number() != 0.0;
    case Kind::kText:
      return !as_text().empty();
    case Kind::kList:
      return !as_list().items.empty();
    case Kind::kDict:
      return !as_dict().entries().empty();
    default:
      return true;
  }
}

std::string_view Value::type_name() const {
  switch (kind()) {
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "none";
    case Kind::kBoolean:
      return "a boolean";
    case Kind::kInteger:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kText:
      return "text";
    case Kind::kList:
      return as_list().is_tuple ? "a tuple" : "a list";
    case Kind::kDict:
      return "a dictionary";
    case Kind::kNamespace:
      return "a namespace";
    case Kind::kMacro:
      return "a macro";
    case Kind::kLoop:
      return "a loop";
    case Kind::kFunction:
      return "a function";
  }
  return "";
}

int Value::depth() const noexcept {
  if (is(Kind::kList)) return as_list().extent.depth;
  return is(Kind::kDict) ? as_dict().extent().depth : 0;
}

size_t Value::weight() const noexcept {
  constexpr size_t kOwn = 32;
  if (is(Kind::kText)) return kOwn + as_text().size();
  if (is(Kind::kList)) return as_list().extent.weight;
  return is(Kind::kDict) ? as_dict().extent().weight : kOwn;
}

void Extent::add(const Value& element) {
  require_storable(element);
  depth = std::max(depth, element.depth() + 1);
  if (depth > kMaxValueDepth) {
    fail(ErrorCode::kUnsupported, "values nest deeper than {} levels", kMaxValueDepth);
  }
  weight += element.weight();
  if (weight > kMaxValueWeight) {
    fail(ErrorCode::kUnsupported, "a value holds more than {} bytes; a hostile template?",
         kMaxValueWeight);
  }
}

Dict::Dict(std::vector<Entry> entries) {
  entries_.reserve(entries.size());  // keeps the index's views valid
  for (Entry& entry : entries) {
    extent_.add(entry.second);
    extent_.weight += entry.first.size();
    const auto known = index_.find(entry.first);
    if (known != index_.end()) {
      entries_[known->second].second = std::move(entry.second);
      continue;
    }
    entries_.push_back(std::move(entry));
    index_[entries_.back().first] = entries_.size() - 1;
  }
}

const Value* Dict::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

Value* Namespace::find(std::string_view name) {
  for (auto& [key, value] : members) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::set(std::string_view name, Value value) {
  require_storable(value);
  if (Value* known = find(name)) {
    *known = std::move(value);
  } else {
    members.emplace_back(name, std::move(value));
  }
}

bool equal(const Value& a, const Value& b) {
  using Kind = Value::Kind;
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
    return a.as_number() == b.as_number();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kText:
      return a.as_text() == b.as_text();
    case Kind::kList:
      return a.as_list().is_tuple == b.as_list().is_tuple &&
             std::ranges::equal(a.as_list().items, b.as_list().items, equal);
    case Kind::kDict: {
      const auto& entries = a.as_dict().entries();
      return entries.size() == b.as_dict().entries().size() &&
             std::ranges::all_of(entries, [&](const Dict::Entry& entry) {
               const Value* other = b.as_dict().find(entry.first);
               return other != nullptr && equal(entry.second, *other);
             });
    }
    case Kind::kNamespace:
      return &a.as_namespace() == &b.as_namespace();
    case Kind::kMacro:
      return &a.as_macro() == &b.as_macro();
    case Kind::kLoop:
      return &a.as_loop() == &b.as_loop();
    default:
      return a.as_function().name == b.as_function().name;
  }
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() < b.as_integer();
    return a.as_number() < b.as_number();
  }
  // UTF-8 sorts like its code points.
  if (a.is(Value::Kind::kText) && b.is(Value::Kind::kText)) return a.as_text() < b.as_text();
  if (a.is(Value::Kind::kList) && b.is(Value::Kind::kList)) {
    const auto& left = a.as_list().items;
    const auto& right = b.as_list().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i]);
    }
    return left.size() < right.size();
  }
  if (a.is_undefined() || b.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "{}", (a.is_undefined() ? a : b).why_undefined());
  }
  fail(ErrorCode::kInvalidArgument, "{} and {} cannot be compared", a.type_name(), b.type_name());
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Value::Kind::kUndefined:
      return false;
    case Value::Kind::kText:
      if (!item.is(Value::Kind::kText)) {
        fail(ErrorCode::kInvalidArgument, "'in' text wants text before it, not {}",
             item.type_name());
      }
      return container.as_text().find(item.as_text()) != std::string::npos;
    case Value::Kind::kList:
      return std::ranges::any_of(container.as_list().items,
                                 [&](const Value& element) { return equal(element, item); });
    case Value::Kind::kDict:
      return item.is(Value::Kind::kText) && container.as_dict().find(item.as_text()) != nullptr;
    default:
      fail(ErrorCode::kInvalidArgument, "'in' wants a container after it, not {}",
           container.type_name());
  }
}

std::vector<Value> elements(const Value& value) {
  std::vector<Value> result;
  switch (value.kind()) {
    case Value::Kind::kUndefined:
      break;
    case Value::Kind::kList:
      return value.as_list().items;
    case Value::Kind::kDict:
      for (const auto& entry : value.as_dict().entries())
        result.push_back(Value::text(entry.first));
      break;
    case Value::Kind::kText: {
      const std::string& text = value.as_text();
      if (text.size() > kMaxElements) {
        fail(ErrorCode::kUnsupported, "a loop over {} bytes of text, the limit is {}", text.size(),
             kMaxElements);
      }
      for (size_t at = 0; at < text.size();) {
        const size_t length = next_utf8(text, at).length;
        result.push_back(Value::text(text.substr(at, length)));
        at += length;
      }
      break;
    }
    default:
      fail(ErrorCode::kInvalidArgument, "{} cannot be iterated", value.type_name());
  }
  return result;
}

}  // namespace d2q::jinja
