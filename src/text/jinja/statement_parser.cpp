#include <algorithm>

#include "base/error.h"
#include "text/jinja/parser.h"

namespace d2q::jinja {

Body parse_template(std::string_view source, const std::string& name) {
  return TemplateParser(source, name).parse();
}

Body TemplateParser::parse() {
  Body body = parse_body({});
  if (current().kind != TokenKind::kEnd) unexpected("the end of the template");
  return body;
}

TemplateParser::StatementPtr TemplateParser::statement(StatementKind kind) const {
  auto result = std::make_unique<Statement>();
  result->kind = kind;
  result->line = current().line;
  return result;
}

Body TemplateParser::parse_body(const std::vector<std::string_view>& ends) {
  const Nesting nesting(*this);
  Body body;
  while (current().kind != TokenKind::kEnd) {
    if (current().kind == TokenKind::kData) {
      body.push_back(statement(StatementKind::kData));
      body.back()->text = take().text;
    } else if (current().kind == TokenKind::kOutputBegin) {
      take();
      body.push_back(statement(StatementKind::kOutput));
      body.back()->expression = parse_tuple();
      expect(TokenKind::kOutputEnd, "'}}'");
    } else {
      if (next_token().kind == TokenKind::kName &&
          std::ranges::find(ends, next_token().text) != ends.end()) {
        take();
        return body;
      }
      take();
      body.push_back(parse_statement());
      expect(TokenKind::kBlockEnd, "'%}'");
    }
  }
  if (!ends.empty()) unexpected("'{% " + std::string(ends.back()) + " %}'");
  return body;
}

Body TemplateParser::parse_block(std::string_view end) {
  expect(TokenKind::kBlockEnd, "'%}'");
  Body body = parse_body({end});
  take();
  return body;
}

TemplateParser::StatementPtr TemplateParser::parse_statement() {
  if (is_word("if")) return parse_if();
  if (is_word("for")) return parse_for();
  if (is_word("set")) return parse_set();
  if (is_word("macro")) return parse_macro();
  if (is_word("filter")) return parse_filter_block();
  if (is_word("with")) return parse_with();
  if (is_word("generation")) {
    StatementPtr scope = statement(StatementKind::kScope);
    take();
    scope->body = parse_block("endgeneration");
    return scope;
  }
  if (is_word("break") || is_word("continue")) {
    if (loop_depth_ == 0) unexpected("a loop around it");
    StatementPtr jump =
        statement(is_word("break") ? StatementKind::kBreak : StatementKind::kContinue);
    take();
    return jump;
  }
  for (const char* tag : {"extends", "include", "import", "from", "block", "call", "autoescape",
                          "do", "trans", "debug"}) {
    if (is_word(tag)) unsupported("the tag '" + std::string(tag) + "'");
  }
  unexpected("a tag (if, for, set, macro, ...)");
}

TemplateParser::StatementPtr TemplateParser::parse_if() {
  StatementPtr result = statement(StatementKind::kIf);
  take();
  while (true) {
    ExpressionPtr condition = parse_tuple(false);
    expect(TokenKind::kBlockEnd, "'%}'");
    result->branches.emplace_back(std::move(condition), parse_body({"elif", "else", "endif"}));
    const std::string end = take().text;
    if (end == "elif") continue;
    if (end == "else") result->body = parse_block("endif");
    return result;
  }
}

TemplateParser::StatementPtr TemplateParser::parse_for() {
  StatementPtr loop = statement(StatementKind::kFor);
  take();
  loop->targets = parse_targets();
  for (const Target& target : loop->targets) {
    if (!target.member.empty()) unexpected("a name to loop with");
  }
  if (!skip_word("in")) unexpected("'in'");
  loop->expression = parse_tuple(false);
  if (skip_word("if")) loop->condition = parse_expression();
  if (is_word("recursive")) unsupported("a recursive loop");
  expect(TokenKind::kBlockEnd, "'%}'");
  ++loop_depth_;
  loop->body = parse_body({"else", "endfor"});
  --loop_depth_;
  if (take().text == "else") loop->otherwise = parse_block("endfor");
  return loop;
}

Target TemplateParser::parse_target() {
  Target target{expect_name(), ""};
  for (const char* reserved : {"true", "false", "none", "True", "False", "None", "not", "in"}) {
    if (target.name == reserved) unexpected("a name that can be set");
  }
  if (skip_operator(".")) target.member = expect_name();
  return target;
}

std::vector<Target> TemplateParser::parse_targets() {
  std::vector<Target> targets;
  const bool parenthesis = skip_operator("(");
  do {
    targets.push_back(parse_target());
  } while (skip_operator(",") && current().kind == TokenKind::kName && !is_word("in"));
  if (parenthesis) expect_operator(")");
  return targets;
}

TemplateParser::StatementPtr TemplateParser::parse_set() {
  StatementPtr set = statement(StatementKind::kSet);
  take();
  set->targets = parse_targets();
  if (skip_operator("=")) {
    set->expression = parse_tuple();
    return set;
  }
  set->kind = StatementKind::kSetBlock;
  if (set->targets.size() != 1) unexpected("'='");
  while (skip_operator("|")) set->filters.push_back(parse_one_filter(nullptr));
  set->body = parse_block("endset");
  return set;
}

TemplateParser::StatementPtr TemplateParser::parse_macro() {
  StatementPtr macro = statement(StatementKind::kMacro);
  take();
  macro->text = expect_name();
  expect_operator("(");
  while (!is_operator(")")) {
    std::string name = expect_name();
    ExpressionPtr fallback;
    if (skip_operator("=")) {
      fallback = parse_expression();
    } else if (!macro->parameters.empty() && macro->parameters.back().second) {
      unexpected("a default, as the parameter before has one");
    }
    macro->parameters.emplace_back(std::move(name), std::move(fallback));
    if (!is_operator(")")) expect_operator(",");
  }
  take();
  const int loops_outside = std::exchange(loop_depth_, 0);
  macro->body = parse_block("endmacro");
  loop_depth_ = loops_outside;
  skip_word(macro->text);
  return macro;
}

TemplateParser::StatementPtr TemplateParser::parse_filter_block() {
  StatementPtr result = statement(StatementKind::kFilter);
  take();
  do {
    result->filters.push_back(parse_one_filter(nullptr));
  } while (skip_operator("|"));
  result->body = parse_block("endfilter");
  return result;
}

TemplateParser::StatementPtr TemplateParser::parse_with() {
  StatementPtr scope = statement(StatementKind::kScope);
  take();
  while (current().kind != TokenKind::kBlockEnd) {
    scope->targets.push_back(parse_target());
    if (!scope->targets.back().member.empty()) unexpected("a name to set");
    expect_operator("=");
    scope->values.push_back(parse_expression());
    if (current().kind != TokenKind::kBlockEnd) expect_operator(",");
  }
  scope->body = parse_block("endwith");
  return scope;
}

}  // namespace d2q::jinja
