#include "text/jinja/sequence_filters.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/text_functions.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;

/// `path` is "name", "name.name" or "0.name"; `fallback` (may be null) stands for what is missing.
Value get_path(const Value& value, const std::string& path, Budget& budget,
               const Value* fallback = nullptr) {
  Value current = value;
  for (const std::string& part : split(path, ".", -1)) {
    int64_t index = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = error == std::errc() && end == part.data() + part.size();
    current = get_item(current, is_index ? Value::integer(index) : Value::text(part), budget);
    if (current.is_undefined() && fallback != nullptr) current = *fallback;
  }
  return current;
}

/// Texts compare without regard to case unless told.
Value sort_key(const Value& value, bool case_sensitive) {
  return value.is(Kind::kText) && !case_sensitive ? Value::text(lower(value.as_text())) : value;
}

struct Keyed {
  Value key;
  Value value;
};

std::vector<Value> sorted(std::vector<Keyed> items, bool reverse, Budget& budget) {
  size_t weight = 0;
  for (const Keyed& item : items) weight += item.key.weight();
  budget.spend_steps(weight);  // n log n comparisons, each a small part of the sum
  const auto before = [](const Keyed& a, const Keyed& b) { return less(a.key, b.key); };
  if (reverse) {  // stable in reverse too
    std::ranges::reverse(items);
    std::ranges::stable_sort(items, before);
    std::ranges::reverse(items);
  } else {
    std::ranges::stable_sort(items, before);
  }
  std::vector<Value> values;
  for (Keyed& item : items) values.push_back(std::move(item.value));
  return values;
}

Arguments without_first(const Arguments& arguments, size_t n) {
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<ptrdiff_t>(n),
                         arguments.positional.end());
  rest.keywords = arguments.keywords;
  return rest;
}

const std::string& name_argument(std::string_view filter, const Arguments& arguments, size_t i) {
  if (arguments.positional.size() <= i || !arguments.positional[i].is(Kind::kText)) {
    fail(ErrorCode::kInvalidArgument, "{}: argument {} is not a name in quotes", filter, i + 1);
  }
  return arguments.positional[i].as_text();
}

/// The elements for which a test (or, without one, the element) says `wanted`.
Value choose(std::string_view filter, const Value& input, const Arguments& arguments, bool wanted,
             bool by_attribute, Budget& budget) {
  const size_t test_at = by_attribute ? 1 : 0;
  std::string attribute;
  if (by_attribute) attribute = name_argument(filter, arguments, 0);
  const bool has_test = arguments.positional.size() > test_at;
  const Arguments rest =
      without_first(arguments, std::min(test_at + 1, arguments.positional.size()));
  std::vector<Value> chosen;
  for (const Value& element : iterate(input, budget)) {
    const Value tested = by_attribute ? get_path(element, attribute, budget) : element;
    const bool holds =
        has_test ? apply_test(name_argument(filter, arguments, test_at), tested, rest, budget)
                 : tested.truth();
    if (holds == wanted) chosen.push_back(element);
  }
  return Value::list(std::move(chosen));
}

Value extreme(std::string_view filter, const Value& input, const Arguments& arguments,
              bool want_largest, Budget& budget) {
  const Parameters parameters(filter, arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = parameters.truth(0, false);
  const std::vector<Value> items = iterate(input, budget);
  Value best = Value::undefined("the sequence has no elements");
  Value best_key;
  for (const Value& item : items) {
    const Value chosen =
        parameters.find(1) != nullptr ? get_path(item, parameters.text(1), budget) : item;
    Value key = sort_key(chosen, case_sensitive);
    const bool better =
        best.is_undefined() || compare(want_largest ? ">" : "<", key, best_key, budget);
    if (!better) continue;
    best = item;
    best_key = std::move(key);
  }
  return best;
}

}  // namespace

Value filter_attr(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("attr", arguments, {"name"});
  return input.is(Kind::kDict) ? Value::undefined("a dictionary's keys are no attributes")
                               : get_attribute(input, parameters.text(0));
}

Value filter_dictsort(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  if (!input.is(Kind::kDict)) {
    fail(ErrorCode::kInvalidArgument, "dictsort: {} is no dictionary", input.type_name());
  }
  const std::string by = parameters.find(1) != nullptr ? parameters.text(1) : "key";
  if (by != "key" && by != "value") {
    fail(ErrorCode::kInvalidArgument, "dictsort: by '{}', expected 'key' or 'value'", by);
  }
  budget.spend_bytes(input.as_dict().entries().size() * 128);
  std::vector<Keyed> items;
  for (const auto& [key, value] : input.as_dict().entries()) {
    const Value text = Value::text(key);
    items.push_back({sort_key(by == "key" ? text : value, parameters.truth(0, false)),
                     Value::list({text, value}, true)});
  }
  return Value::list(sorted(std::move(items), parameters.truth(2, false), budget));
}

Value filter_first(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("first", arguments, {});
  const std::vector<Value> items = iterate(input, budget);
  return items.empty() ? Value::undefined("the sequence has no first element") : items.front();
}

Value filter_items(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("items", arguments, {});
  if (input.is_undefined()) return Value::list({});
  if (!input.is(Kind::kDict)) {
    fail(ErrorCode::kInvalidArgument, "items: {} is no dictionary", input.type_name());
  }
  return call_method(input, "items", {}, budget);
}

Value filter_join(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("join", arguments, {"d", "attribute"});
  const std::string separator =
      parameters.find(0) != nullptr ? print(parameters.at(0), budget) : std::string();
  std::string out;
  bool first = true;
  for (const Value& item : iterate(input, budget)) {
    if (!first) out += separator;
    first = false;
    budget.spend_bytes(separator.size());
    out += print(parameters.find(1) != nullptr ? get_path(item, parameters.text(1), budget) : item,
                 budget);
  }
  return make_text(std::move(out), budget);
}

Value filter_last(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("last", arguments, {});
  const std::vector<Value> items = iterate(input, budget);
  return items.empty() ? Value::undefined("the sequence has no last element") : items.back();
}

Value filter_list(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("list", arguments, {});
  return Value::list(iterate(input, budget));
}

Value filter_map(const Value& input, const Arguments& arguments, Budget& budget) {
  const auto keyword = [&](std::string_view name) -> const Value* {
    for (const auto& [key, value] : arguments.keywords) {
      if (key == name) return &value;
    }
    return nullptr;
  };
  std::vector<Value> results;
  if (arguments.positional.empty() && keyword("attribute") != nullptr) {
    const Parameters parameters("map", arguments, {"attribute", "default"});
    for (const Value& item : iterate(input, budget)) {
      results.push_back(
          get_path(item, print(parameters.at(0), budget), budget, parameters.find(1)));
    }
    return Value::list(std::move(results));
  }
  const std::string& filter = name_argument("map", arguments, 0);
  const Arguments rest = without_first(arguments, 1);
  const DepthGuard depth(budget);  // map('map', 'map', ...)
  for (const Value& item : iterate(input, budget)) {
    results.push_back(apply_filter(filter, item, rest, budget));
  }
  return Value::list(std::move(results));
}

Value filter_max(const Value& input, const Arguments& arguments, Budget& budget) {
  return extreme("max", input, arguments, true, budget);
}

Value filter_min(const Value& input, const Arguments& arguments, Budget& budget) {
  return extreme("min", input, arguments, false, budget);
}

Value filter_reject(const Value& input, const Arguments& arguments, Budget& budget) {
  return choose("reject", input, arguments, false, false, budget);
}

Value filter_rejectattr(const Value& input, const Arguments& arguments, Budget& budget) {
  return choose("rejectattr", input, arguments, false, true, budget);
}

Value filter_reverse(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("reverse", arguments, {});
  if (input.is(Kind::kText)) return make_text(reversed(input.as_text()), budget);
  std::vector<Value> items = iterate(input, budget);
  std::ranges::reverse(items);
  return Value::list(std::move(items));
}

Value filter_select(const Value& input, const Arguments& arguments, Budget& budget) {
  return choose("select", input, arguments, true, false, budget);
}

Value filter_selectattr(const Value& input, const Arguments& arguments, Budget& budget) {
  return choose("selectattr", input, arguments, true, true, budget);
}

Value filter_sort(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Keyed> items;
  for (const Value& item : iterate(input, budget)) {
    const Value chosen =
        parameters.find(2) != nullptr ? get_path(item, parameters.text(2), budget) : item;
    items.push_back({sort_key(chosen, parameters.truth(1, false)), item});
  }
  return Value::list(sorted(std::move(items), parameters.truth(0, false), budget));
}

Value filter_sum(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("sum", arguments, {"attribute", "start"});
  Value total = parameters.find(1) != nullptr ? parameters.at(1) : Value::integer(0);
  for (const Value& item : iterate(input, budget)) {
    const bool by_attribute = parameters.find(0) != nullptr && !parameters.at(0).is(Kind::kNone);
    total = apply_operator(
        "+", total, by_attribute ? get_path(item, parameters.text(0), budget) : item, budget);
  }
  return total;
}

Value filter_unique(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("unique", arguments, {"case_sensitive", "attribute"});
  std::vector<Value> keys;
  std::vector<Value> kept;
  for (const Value& item : iterate(input, budget)) {
    const Value chosen =
        parameters.find(1) != nullptr ? get_path(item, parameters.text(1), budget) : item;
    Value key = sort_key(chosen, parameters.truth(0, false));
    budget.spend_steps(keys.size());
    if (std::ranges::any_of(keys, [&](const Value& known) { return equal(known, key); })) continue;
    keys.push_back(std::move(key));
    kept.push_back(item);
  }
  return Value::list(std::move(kept));
}

}  // namespace d2q::jinja
