#include <array>
#include <charconv>

#include "base/error.h"
#include "text/jinja/parser.h"

namespace d2q::jinja {

ExpressionPtr ExpressionParser::make(ExpressionKind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = current().line;
  return expression;
}

namespace {

ExpressionPtr with_children(ExpressionPtr parent, ExpressionPtr first,
                            ExpressionPtr second = nullptr) {
  parent->children.push_back(std::move(first));
  if (second) parent->children.push_back(std::move(second));
  return parent;
}

}  // namespace

ExpressionPtr ExpressionParser::parse_tuple(bool with_condition) {
  ExpressionPtr tuple = make(ExpressionKind::kTuple);
  ExpressionPtr first = parse_expression(with_condition);
  if (!is_operator(",")) return first;
  tuple->children.push_back(std::move(first));
  while (skip_operator(",")) {
    const bool ends = current().kind == TokenKind::kBlockEnd ||
                      current().kind == TokenKind::kOutputEnd || is_operator(")") ||
                      is_operator("=");
    if (ends) break;
    tuple->children.push_back(parse_expression(with_condition));
  }
  return tuple;
}

ExpressionPtr ExpressionParser::parse_expression(bool with_condition) {
  const Nesting nesting(*this);
  ExpressionPtr value = parse_or();
  for (int chain = 0; with_condition && is_word("if"); check_depth(++chain)) {
    ExpressionPtr conditional = make(ExpressionKind::kConditional);
    take();
    conditional->children.push_back(std::move(value));
    conditional->children.push_back(parse_or());
    conditional->children.push_back(skip_word("else") ? parse_expression() : nullptr);
    value = std::move(conditional);
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  ExpressionPtr left = parse_and();
  for (int chain = 0; is_word("or"); check_depth(++chain)) {
    ExpressionPtr both = make(ExpressionKind::kOr);
    take();
    left = with_children(std::move(both), std::move(left), parse_and());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  ExpressionPtr left = parse_not();
  for (int chain = 0; is_word("and"); check_depth(++chain)) {
    ExpressionPtr both = make(ExpressionKind::kAnd);
    take();
    left = with_children(std::move(both), std::move(left), parse_not());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_word("not")) return parse_compare();
  const Nesting nesting(*this);
  ExpressionPtr negation = make(ExpressionKind::kNot);
  take();
  return with_children(std::move(negation), parse_not());
}

ExpressionPtr ExpressionParser::parse_compare() {
  constexpr std::array kComparisons = {"==", "!=", "<", "<=", ">", ">="};
  ExpressionPtr compare = make(ExpressionKind::kCompare);
  ExpressionPtr first = parse_sum();
  while (true) {
    std::string op;
    for (const char* candidate : kComparisons) {
      if (is_operator(candidate)) op = candidate;
    }
    if (is_word("in")) op = "in";
    if (is_word("not") && next_token().kind == TokenKind::kName && next_token().text == "in") {
      take();
      op = "not in";
    }
    if (op.empty()) break;
    take();
    if (first) compare->children.push_back(std::move(first));
    compare->names.push_back(std::move(op));
    compare->children.push_back(parse_sum());
  }
  return first ? std::move(first) : std::move(compare);
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concat();
  for (int chain = 0; is_operator("+") || is_operator("-"); check_depth(++chain)) {
    ExpressionPtr sum = make(ExpressionKind::kBinary);
    sum->name = take().text;
    left = with_children(std::move(sum), std::move(left), parse_concat());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concat() {
  ExpressionPtr concat = make(ExpressionKind::kConcat);
  ExpressionPtr first = parse_product();
  if (!is_operator("~")) return first;
  concat->children.push_back(std::move(first));
  while (skip_operator("~")) concat->children.push_back(parse_product());
  return concat;
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_power();
  for (int chain = 0; is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%");
       check_depth(++chain)) {
    ExpressionPtr product = make(ExpressionKind::kBinary);
    product->name = take().text;
    left = with_children(std::move(product), std::move(left), parse_power());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_power() {
  ExpressionPtr left = parse_unary();
  // Left to right, unlike Python.
  for (int chain = 0; is_operator("**"); check_depth(++chain)) {
    ExpressionPtr power = make(ExpressionKind::kBinary);
    power->name = take().text;
    left = with_children(std::move(power), std::move(left), parse_unary());
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filter) {
  const Nesting nesting(*this);
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    value = make(is_operator("-") ? ExpressionKind::kNegate : ExpressionKind::kPlus);
    take();
    value->children.push_back(parse_unary(false));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  if (is_operator("(")) return parse_parenthesis();
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  switch (current().kind) {
    case TokenKind::kName:
      return parse_name();
    case TokenKind::kString: {
      ExpressionPtr constant = make(ExpressionKind::kConstant);
      std::string text;
      while (current().kind == TokenKind::kString) text += take().text;
      constant->value = Value::text(std::move(text));
      return constant;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return parse_number();
    default:
      unexpected("an expression");
  }
}

ExpressionPtr ExpressionParser::parse_name() {
  ExpressionPtr expression = make(ExpressionKind::kConstant);
  const std::string name = take().text;
  const std::string_view word = name;
  if (word == "true" || word == "True") {
    expression->value = Value::boolean(true);
  } else if (word == "false" || word == "False") {
    expression->value = Value::boolean(false);
  } else if (word == "none" || word == "None") {
    expression->value = Value::none();
  } else {
    expression->kind = ExpressionKind::kName;
    expression->name = name;
  }
  return expression;
}

ExpressionPtr ExpressionParser::parse_number() {
  ExpressionPtr constant = make(ExpressionKind::kConstant);
  const char* begin = current().text.data();
  const char* end = begin + current().text.size();
  if (current().kind == TokenKind::kFloat) {
    double value = 0.0;
    if (std::from_chars(begin, end, value).ec != std::errc()) unsupported("so large a number");
    constant->value = Value::number(value);
  } else {
    int64_t value = 0;
    if (std::from_chars(begin, end, value).ec != std::errc()) unsupported("so large a number");
    constant->value = Value::integer(value);
  }
  take();
  return constant;
}

ExpressionPtr ExpressionParser::parse_parenthesis() {
  ExpressionPtr empty = make(ExpressionKind::kTuple);
  take();
  if (skip_operator(")")) return empty;
  ExpressionPtr value = parse_tuple();
  expect_operator(")");
  return value;
}

ExpressionPtr ExpressionParser::parse_list() {
  ExpressionPtr list = make(ExpressionKind::kList);
  take();
  while (!is_operator("]")) {
    list->children.push_back(parse_expression());
    if (!is_operator("]")) expect_operator(",");
  }
  take();
  return list;
}

ExpressionPtr ExpressionParser::parse_dict() {
  ExpressionPtr dict = make(ExpressionKind::kDict);
  take();
  while (!is_operator("}")) {
    dict->children.push_back(parse_expression());
    expect_operator(":");
    dict->children.push_back(parse_expression());
    if (!is_operator("}")) expect_operator(",");
  }
  take();
  return dict;
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr value) {
  ExpressionPtr call = with_children(make(ExpressionKind::kCall), std::move(value));
  parse_arguments(*call);
  return call;
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  for (int chain = 0;; check_depth(++chain)) {
    if (is_operator(".")) {
      value = parse_attribute(std::move(value));
    } else if (is_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
  for (int chain = 0;; check_depth(++chain)) {
    if (skip_operator("|")) {
      value = parse_one_filter(std::move(value));
    } else if (is_word("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_one_filter(ExpressionPtr value) {
  ExpressionPtr filter = make(ExpressionKind::kFilter);
  filter->name = expect_name();
  filter->children.push_back(std::move(value));
  if (is_operator("(")) parse_arguments(*filter);
  return filter;
}

ExpressionPtr ExpressionParser::parse_attribute(ExpressionPtr value) {
  take();
  if (current().kind == TokenKind::kInteger) {
    ExpressionPtr item = make(ExpressionKind::kItem);
    return with_children(std::move(item), std::move(value), parse_number());
  }
  ExpressionPtr attribute = make(ExpressionKind::kAttribute);
  attribute->name = expect_name();
  return with_children(std::move(attribute), std::move(value));
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr value) {
  ExpressionPtr subscript = make(ExpressionKind::kSlice);
  take();
  subscript->children.push_back(std::move(value));
  ExpressionPtr part;
  if (!is_operator(":")) {
    part = parse_expression();
    if (skip_operator("]")) {
      subscript->kind = ExpressionKind::kItem;
      subscript->children.push_back(std::move(part));
      return subscript;
    }
  }
  subscript->children.push_back(std::move(part));
  while (subscript->children.size() < 4) {
    ExpressionPtr next;
    if (skip_operator(":") && !is_operator("]") && !is_operator(":")) next = parse_expression();
    subscript->children.push_back(std::move(next));
  }
  expect_operator("]");
  return subscript;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  ExpressionPtr test = make(ExpressionKind::kTest);
  ExpressionPtr negation = make(ExpressionKind::kNot);
  take();
  const bool negated = skip_word("not");
  test->name = expect_name();
  test->children.push_back(std::move(value));
  const bool is_literal = current().kind == TokenKind::kString ||
                          current().kind == TokenKind::kInteger ||
                          current().kind == TokenKind::kFloat;
  const bool is_argument_name = current().kind == TokenKind::kName && !is_word("else") &&
                                !is_word("or") && !is_word("and") && !is_word("is") &&
                                !is_word("if") && !is_word("in") && !is_word("not");
  if (is_operator("(")) {
    parse_arguments(*test);
  } else if (is_literal || is_argument_name || is_operator("[") || is_operator("{")) {
    test->children.push_back(parse_postfix(parse_primary()));
  }
  return negated ? with_children(std::move(negation), std::move(test)) : std::move(test);
}

void ExpressionParser::parse_arguments(Expression& call) {
  expect_operator("(");
  while (!is_operator(")")) {
    if (is_operator("*") || is_operator("**")) unsupported("unpacking of arguments");
    const bool is_keyword = current().kind == TokenKind::kName &&
                            next_token().kind == TokenKind::kOperator && next_token().text == "=";
    if (is_keyword) {
      call.keywords.emplace_back(take().text, nullptr);
      take();
      call.keywords.back().second = parse_expression();
    } else {
      if (!call.keywords.empty()) unexpected("an argument with a name");
      call.children.push_back(parse_expression());
    }
    if (!is_operator(")")) expect_operator(",");
  }
  take();
}

}  // namespace d2q::jinja
