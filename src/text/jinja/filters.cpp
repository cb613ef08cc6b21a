#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "text/jinja/builtins.h"
#include "text/jinja/sequence_filters.h"
#include "text/jinja/text_functions.h"
#include "text/jinja/value_text.h"

namespace d2q::jinja {
namespace {

using Kind = Value::Kind;

/// A filter of one text without arguments.
template <typename Function>
Value change_text(const Value& input, const Arguments& arguments, Budget& budget,
                  Function function) {
  const Parameters parameters("filter", arguments, {});
  return make_text(std::string(function(print(input, budget))), budget);
}

Value filter_default(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("default", arguments, {"default_value", "boolean"});
  const bool use_default = input.is_undefined() || (parameters.truth(1, false) && !input.truth());
  if (!use_default) return input;
  return parameters.find(0) != nullptr ? *parameters.find(0) : Value::text("");
}

Value filter_trim(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("trim", arguments, {"chars"});
  return make_text(std::string(strip(print(input, budget), parameters.optional_text(0))), budget);
}

Value filter_upper(const Value& input, const Arguments& arguments, Budget& budget) {
  return change_text(input, arguments, budget, upper);
}

Value filter_lower(const Value& input, const Arguments& arguments, Budget& budget) {
  return change_text(input, arguments, budget, lower);
}

Value filter_capitalize(const Value& input, const Arguments& arguments, Budget& budget) {
  return change_text(input, arguments, budget, capitalize);
}

Value filter_title(const Value& input, const Arguments& arguments, Budget& budget) {
  return change_text(input, arguments, budget,
                     [](std::string_view text) { return title(text, /*by_space=*/true); });
}

/// safe: nothing is escaped anyway.
Value filter_string(const Value& input, const Arguments& arguments, Budget& budget) {
  return change_text(input, arguments, budget, [](std::string text) { return text; });
}

Value filter_replace(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"});
  return call_method(
      Value::text(print(input, budget)), "replace",
      {{Value::text(print(parameters.at(0), budget)), Value::text(print(parameters.at(1), budget)),
        Value::integer(parameters.integer(2, -1))},
       {}},
      budget);
}

Value filter_indent(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("indent", arguments, {"width", "first", "blank"});
  std::string indentation;
  if (parameters.find(0) != nullptr && parameters.at(0).is(Kind::kText)) {
    indentation = parameters.text(0);
  } else {
    const int64_t width = parameters.integer(0, 4);
    if (width > 1024) fail(ErrorCode::kUnsupported, "indent: a width of {}, above 1024", width);
    indentation.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool blank = parameters.truth(2, false);
  const std::vector<std::string> lines = split_lines(print(input, budget).append("\n"));
  budget.spend_bytes(lines.size() * indentation.size());
  std::string out;
  if (parameters.truth(1, false)) out = indentation;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indentation;
    out += lines[i];
  }
  return make_text(std::move(out), budget);
}

Value filter_tojson(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("tojson", arguments,
                              {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = parameters.truth(0, false);
  style.sort_keys = parameters.truth(3, false);
  if (parameters.find(1) != nullptr && !parameters.at(1).is(Kind::kNone)) {
    constexpr int64_t kMaxIndent = 16;
    style.indent = parameters.integer(1, 0);
    if (*style.indent < 0 || *style.indent > kMaxIndent) {
      fail(ErrorCode::kUnsupported, "tojson: an indent of {}, outside 0..{}", *style.indent,
           kMaxIndent);
    }
    style.item_separator.pop_back();  // no space before the line's end
  }
  if (parameters.find(2) != nullptr && !parameters.at(2).is(Kind::kNone)) {
    const Value& separators = parameters.at(2);
    if (!separators.is(Kind::kList) || separators.as_list().items.size() != 2) {
      fail(ErrorCode::kInvalidArgument, "tojson: 'separators' is {}, expected a pair of texts",
           separators.type_name());
    }
    style.item_separator = print(separators.as_list().items[0], budget);
    style.key_separator = print(separators.as_list().items[1], budget);
  }
  // Every element may bring a line of indentation and the separators.
  const size_t per_element = style.item_separator.size() + style.key_separator.size() +
                             static_cast<size_t>(style.indent.value_or(0) * input.depth());
  budget.spend_bytes(input.weight() / 32 * per_element + input.weight());
  return make_text(to_json(input, style), budget);
}

Value filter_length(const Value& input, const Arguments& arguments, Budget& budget) {
  const Parameters parameters("length", arguments, {});
  budget.spend_steps(input.is(Kind::kText) ? input.as_text().size() / 256 : 0);
  size_t n = 0;
  if (input.is(Kind::kText)) {
    n = length(input.as_text());
  } else if (input.is(Kind::kList)) {
    n = input.as_list().items.size();
  } else if (input.is(Kind::kDict)) {
    n = input.as_dict().entries().size();
  } else if (!input.is_undefined()) {
    fail(ErrorCode::kInvalidArgument, "length: {} has none", input.type_name());
  }
  return Value::integer(static_cast<int64_t>(n));
}

/// The number at the start of a text without white space around it, or nullopt.
template <typename Number>
std::optional<Number> parse_whole(std::string_view text) {
  text = strip(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Value filter_int(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("int", arguments, {"default", "base"});
  const Value fallback = Value::integer(parameters.integer(0, 0));
  if (parameters.integer(1, 10) != 10) fail(ErrorCode::kUnsupported, "int: a base other than 10");
  if (input.is_integral()) return Value::integer(input.as_integer());
  std::optional<double> number;
  if (input.is(Kind::kText)) {
    if (const auto whole = parse_whole<int64_t>(input.as_text())) return Value::integer(*whole);
    number = parse_whole<double>(input.as_text());
  } else if (input.is(Kind::kFloat)) {
    number = input.as_number();
  }
  if (!number || !(std::abs(*number) < 9.2e18)) return fallback;
  return Value::integer(static_cast<int64_t>(*number));
}

Value filter_float(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("float", arguments, {"default"});
  if (input.is_number()) return Value::number(input.as_number());
  if (input.is(Kind::kText)) {
    if (const auto number = parse_whole<double>(input.as_text())) return Value::number(*number);
  }
  return parameters.find(0) != nullptr ? *parameters.find(0) : Value::number(0.0);
}

Value filter_abs(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("abs", arguments, {});
  if (input.is_integral() && input.as_integer() >= 0) return Value::integer(input.as_integer());
  if (input.is(Kind::kFloat)) return Value::number(std::abs(input.as_number()));
  return negate(input);
}

Value filter_round(const Value& input, const Arguments& arguments, Budget&) {
  const Parameters parameters("round", arguments, {"precision", "method"});
  const int64_t precision = parameters.integer(0, 0);
  if (!input.is_number() || precision < 0 || precision > 15) {
    fail(ErrorCode::kUnsupported, "round: {} to {} digits", input.type_name(), precision);
  }
  const std::string method = parameters.find(1) != nullptr ? parameters.text(1) : "common";
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double value = input.as_number();
  if (method == "ceil") return Value::number(std::ceil(value * scale) / scale);
  if (method == "floor") return Value::number(std::floor(value * scale) / scale);
  if (input.is_integral()) return Value::integer(input.as_integer());
  // Decimal digits of the exact value, ties to even, as Python rounds.
  double rounded = 0.0;
  const std::string digits = fmt::format("{:.{}f}", value, precision);
  std::from_chars(digits.data(), digits.data() + digits.size(), rounded);
  return Value::number(rounded);
}

using Filter = Value (*)(const Value&, const Arguments&, Budget&);

const std::unordered_map<std::string_view, Filter>& filters() {
  static const std::unordered_map<std::string_view, Filter> table = {
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"capitalize", filter_capitalize},
      {"count", filter_length},
      {"d", filter_default},
      {"default", filter_default},
      {"dictsort", filter_dictsort},
      {"first", filter_first},
      {"float", filter_float},
      {"indent", filter_indent},
      {"int", filter_int},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"length", filter_length},
      {"list", filter_list},
      {"lower", filter_lower},
      {"map", filter_map},
      {"max", filter_max},
      {"min", filter_min},
      {"reject", filter_reject},
      {"rejectattr", filter_rejectattr},
      {"replace", filter_replace},
      {"reverse", filter_reverse},
      {"round", filter_round},
      {"safe", filter_string},
      {"select", filter_select},
      {"selectattr", filter_selectattr},
      {"sort", filter_sort},
      {"string", filter_string},
      {"sum", filter_sum},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"unique", filter_unique},
      {"upper", filter_upper},
  };
  return table;
}

}  // namespace

Value apply_filter(std::string_view name, const Value& input, const Arguments& arguments,
                   Budget& budget) {
  const auto found = filters().find(name);
  if (found == filters().end()) {
    fail(ErrorCode::kUnsupported, "the filter '{}' is not supported", name);
  }
  budget.spend_steps();
  return found->second(input, arguments, budget);
}

}  // namespace d2q::jinja
