#include <algorithm>
#include <functional>
#include <unordered_map>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/text_functions.h"
#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;
using Method = Value (*)(const Value&, const Arguments&, Budget&);
using MethodTable = std::unordered_map<std::string_view, Method>;

Value list_of(std::vector<std::string> parts, Budget& budget) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (std::string& part : parts) values.push_back(make_text(std::move(part), budget));
  return Value::list(std::move(values));
}

using Strip = std::string_view (*)(std::string_view, std::optional<std::string_view>);
template <Strip function>
Value strip_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("strip", arguments, {"chars"});
  return make_text(std::string(function(object.as_text(), parameters.optional_text(0))), budget);
}

using Change = std::string (*)(std::string_view);
template <Change function>
Value change_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("method", arguments, {});
  return make_text(function(object.as_text()), budget);
}

std::string title_method(std::string_view text) { return title(text, /*by_space=*/false); }

using Split = std::vector<std::string> (*)(std::string_view, std::optional<std::string_view>,
                                           int64_t);
template <Split function>
Value split_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("split", arguments, {"sep", "maxsplit"});
  const auto separator = parameters.optional_text(0);
  if (separator && separator->empty()) {
    fail(ErrorCode::kInvalidArgument, "split: an empty separator");
  }
  return list_of(function(object.as_text(), separator, parameters.integer(1, -1)), budget);
}

Value splitlines(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("splitlines", arguments, {});
  return list_of(split_lines(object.as_text()), budget);
}

/// Whether the text has one of the affixes: a text, or a tuple of texts.
template <bool at_start>
Value has_affix(const Value& object, const Arguments& arguments, Budget&) {
  const Parameters parameters(at_start ? "startswith" : "endswith", arguments, {"affix"});
  const auto matches = [&](const std::string& affix) {
    return at_start ? object.as_text().starts_with(affix) : object.as_text().ends_with(affix);
  };
  if (!parameters.at(0).is(Kind::kList)) return Value::boolean(matches(parameters.text(0)));
  return Value::boolean(std::ranges::any_of(
      parameters.at(0).as_list().items,
      [&](const Value& affix) { return affix.is(Kind::kText) && matches(affix.as_text()); }));
}

template <bool at_start>
Value remove_affix(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters(at_start ? "removeprefix" : "removesuffix", arguments, {"affix"});
  std::string_view text = object.as_text();
  const std::string& affix = parameters.text(0);
  if (at_start && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!at_start && text.ends_with(affix)) text.remove_suffix(affix.size());
  return make_text(std::string(text), budget);
}

Value replace_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"});
  const std::string& text = object.as_text();
  const std::string& from = parameters.text(0);
  const std::string& to = parameters.text(1);
  budget.spend_steps(text.size() / 256);
  size_t n = from.empty() ? text.size() + 1 : 0;
  for (size_t at = from.empty() ? std::string::npos : text.find(from); at != std::string::npos;
       at = text.find(from, at + from.size())) {
    ++n;
  }
  if (!to.empty() && n > kMaxElements * 64 / to.size() + kMaxElements) {
    fail(ErrorCode::kUnsupported, "replace: {} replacements by {} bytes", n, to.size());
  }
  budget.spend_bytes(text.size() + n * to.size());
  return Value::text(replace(text, from, to, parameters.integer(2, -1)));
}

Value join_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("join", arguments, {"iterable"});
  return apply_filter("join", parameters.at(0), {{object}, {}}, budget);
}

/// The position in code points, or -1.
template <bool from_right>
int64_t position_of(const Value& object, const Arguments& arguments) {
  const Parameters parameters("find", arguments, {"sub"});
  const std::string& text = object.as_text();
  const size_t at = from_right ? text.rfind(parameters.text(0)) : text.find(parameters.text(0));
  if (at == std::string::npos) return -1;
  return static_cast<int64_t>(length(std::string_view(text).substr(0, at)));
}

template <bool from_right>
Value find_method(const Value& object, const Arguments& arguments, Budget& budget) {
  budget.spend_steps(object.as_text().size() / 256);
  return Value::integer(position_of<from_right>(object, arguments));
}

Value index_method(const Value& object, const Arguments& arguments, Budget& budget) {
  budget.spend_steps(object.weight() / 256);
  if (object.is(Kind::kText)) {
    const int64_t position = position_of<false>(object, arguments);
    if (position < 0) fail(ErrorCode::kInvalidArgument, "index: the text is not there");
    return Value::integer(position);
  }
  const Parameters parameters("index", arguments, {"value"});
  const auto& items = object.as_list().items;
  const auto found =
      std::ranges::find_if(items, [&](const Value& item) { return equal(item, parameters.at(0)); });
  if (found == items.end()) fail(ErrorCode::kInvalidArgument, "index: the value is not there");
  return Value::integer(found - items.begin());
}

Value count_method(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("count", arguments, {"value"});
  budget.spend_steps(object.weight() / 256);
  if (object.is(Kind::kList)) {
    return Value::integer(std::ranges::count_if(
        object.as_list().items, [&](const Value& item) { return equal(item, parameters.at(0)); }));
  }
  const std::string& wanted = parameters.text(0);
  if (wanted.empty()) return Value::integer(static_cast<int64_t>(length(object.as_text()) + 1));
  int64_t n = 0;
  for (size_t at = object.as_text().find(wanted); at != std::string::npos;
       at = object.as_text().find(wanted, at + wanted.size())) {
    ++n;
  }
  return Value::integer(n);
}

/// Every character is of a class, and there is one.
template <bool (*is_member)(char32_t)>
Value all_of_class(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("method", arguments, {});
  const std::string& text = object.as_text();
  budget.spend_steps(text.size() / 64);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text, at);
    if (!is_member(step.code_point)) return Value::boolean(false);
    at += step.length;
  }
  return Value::boolean(!text.empty());
}

bool is_letter_or_number(char32_t c) { return is_letter(c) || is_number(c); }

/// At least one letter with two cases, and all of them in this one.
template <Change this_case, Change other_case>
Value is_in_case(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("method", arguments, {});
  budget.spend_steps(object.as_text().size() / 64);
  return Value::boolean(this_case(object.as_text()) == object.as_text() &&
                        other_case(object.as_text()) != object.as_text());
}

template <bool from_right>
Value partition(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("partition", arguments, {"sep"});
  const std::string& text = object.as_text();
  const std::string& separator = parameters.text(0);
  if (separator.empty()) fail(ErrorCode::kInvalidArgument, "partition: an empty separator");
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  budget.spend_bytes(text.size());
  const Value empty = Value::text("");
  if (at == std::string::npos) {
    return from_right ? Value::list({empty, empty, object}, true)
                      : Value::list({object, empty, empty}, true);
  }
  return Value::list({Value::text(text.substr(0, at)), parameters.at(0),
                      Value::text(text.substr(at + separator.size()))},
                     true);
}

const MethodTable kTextMethods = {
    {"strip", strip_method<strip>},
    {"lstrip", strip_method<strip_left>},
    {"rstrip", strip_method<strip_right>},
    {"upper", change_method<upper>},
    {"lower", change_method<lower>},
    {"capitalize", change_method<capitalize>},
    {"title", change_method<title_method>},
    {"split", split_method<split>},
    {"rsplit", split_method<split_from_right>},
    {"splitlines", splitlines},
    {"startswith", has_affix<true>},
    {"endswith", has_affix<false>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace_method},
    {"join", join_method},
    {"find", find_method<false>},
    {"rfind", find_method<true>},
    {"index", index_method},
    {"count", count_method},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"isdigit", all_of_class<is_number>},
    {"isnumeric", all_of_class<is_number>},
    {"isalpha", all_of_class<is_letter>},
    {"isalnum", all_of_class<is_letter_or_number>},
    {"isspace", all_of_class<is_python_space>},
    {"isupper", is_in_case<upper, lower>},
    {"islower", is_in_case<lower, upper>},
};

const MethodTable kListMethods = {{"index", index_method}, {"count", count_method}};

Value dict_items(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("items", arguments, {});
  budget.spend_bytes(object.as_dict().entries().size() * 192);
  std::vector<Value> items;
  for (const auto& [key, value] : object.as_dict().entries()) {
    items.push_back(Value::list({Value::text(key), value}, true));
  }
  return Value::list(std::move(items));
}

Value dict_keys(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("keys", arguments, {});
  return Value::list(iterate(object, budget));
}

Value dict_values(const Value& object, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("values", arguments, {});
  budget.spend_bytes(object.as_dict().entries().size() * sizeof(Value));
  std::vector<Value> values;
  for (const auto& entry : object.as_dict().entries()) values.push_back(entry.second);
  return Value::list(std::move(values));
}

Value dict_get(const Value& object, const Arguments& arguments, Budget&) {
  const Parameters parameters("get", arguments, {"key", "default"});
  const Value& key = parameters.at(0);
  if (key.is(Kind::kText)) {
    if (const Value* value = object.as_dict().find(key.as_text())) return *value;
  }
  return parameters.find(1) != nullptr ? parameters.at(1) : Value::none();
}

Value dict_copy(const Value& object, const Arguments& arguments, Budget&) {
  const Parameters parameters("copy", arguments, {});
  return object;
}

const MethodTable kDictMethods = {{"items", dict_items},
                                  {"keys", dict_keys},
                                  {"values", dict_values},
                                  {"get", dict_get},
                                  {"copy", dict_copy}};

Value loop_cycle(const Value& object, const Arguments& arguments, Budget&) {
  if (arguments.positional.empty()) fail(ErrorCode::kInvalidArgument, "cycle: nothing to cycle");
  return arguments.positional[object.as_loop().index % arguments.positional.size()];
}

Value loop_changed(const Value& object, const Arguments& arguments, Budget& budget) {
  LoopState& loop = object.as_loop();
  Value now = Value::list(arguments.positional, true);
  if (compare("==", now, loop.last_changed, budget)) return Value::boolean(false);
  loop.last_changed = std::move(now);
  return Value::boolean(true);
}

const MethodTable kLoopMethods = {{"cycle", loop_cycle}, {"changed", loop_changed}};
const MethodTable kNoMethods = {};

const MethodTable& methods_of(const Value& object) {
  switch (object.kind()) {
    case Kind::kText:
      return kTextMethods;
    case Kind::kList:
      return kListMethods;
    case Kind::kDict:
      return kDictMethods;
    case Kind::kLoop:
      return kLoopMethods;
    default:
      return kNoMethods;
  }
}

}  // namespace

bool has_method(const Value& object, std::string_view name) {
  return methods_of(object).contains(name);
}

Value call_method(const Value& object, std::string_view name, const Arguments& arguments,
                  Budget& budget) {
  if (object.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "{}, so '{}' cannot be called", object.why_undefined(), name);
  }
  const auto found = methods_of(object).find(name);
  if (found == methods_of(object).end()) {
    const bool changes = name == "append" || name == "extend" || name == "insert" ||
                         name == "pop" || name == "update" || name == "remove" || name == "clear" ||
                         name == "setdefault" || name == "sort";
    fail(ErrorCode::kUnsupported, "'{}' of {} {}", name, object.type_name(),
         changes ? "changes it, which templates may not" : "is not supported");
  }
  budget.spend_steps();
  return found->second(object, arguments, budget);
}

}  // namespace d2q::jinja
