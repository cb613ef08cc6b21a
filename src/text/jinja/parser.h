// From tokens to a tree: recursive descent over Jinja's grammar.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace d2q::jinja {

/// Brackets, operators and blocks inside each other.
inline constexpr int kMaxTemplateDepth = 100;

/// Throws Error{kCorrupt} naming `name` and the line of what does not parse, Error{kUnsupported}
/// for tags outside the subset (extends, include, import, block, call, autoescape, ...).
Body parse_template(std::string_view source, const std::string& name);

/// Walks the tokens; the base of the two halves of the parser.
class TokenReader {
 public:
  TokenReader(std::string_view source, const std::string& name)
      : name_(name), tokens_(tokenize_template(source, name)) {}

 protected:
  const Token& current() const { return tokens_[at_]; }
  const Token& next_token() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  const Token& take();
  bool is(TokenKind kind, std::string_view text) const {
    return current().kind == kind && current().text == text;
  }
  bool is_operator(std::string_view text) const { return is(TokenKind::kOperator, text); }
  bool is_word(std::string_view text) const { return is(TokenKind::kName, text); }
  bool skip_operator(std::string_view text);
  bool skip_word(std::string_view text);
  void expect_operator(std::string_view text);
  void expect(TokenKind kind, std::string_view what);
  std::string expect_name();
  /// Throws: "<name>:<line>: found ..., expected `wanted`".
  [[noreturn]] void unexpected(std::string_view wanted) const;
  [[noreturn]] void unsupported(std::string_view what) const;

  /// One level of nesting for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(TokenReader& reader) : reader_(reader) {
      reader_.check_depth(++reader_.depth_);
    }
    ~Nesting() { --reader_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    TokenReader& reader_;
  };
  /// Chains of operators grow the tree without nesting the parser: `length` operators so far.
  void check_depth(int length) const;

 private:
  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

class ExpressionParser : public TokenReader {
 public:
  using TokenReader::TokenReader;

 protected:
  /// `with_condition`: "a if b else c" is one expression.
  ExpressionPtr parse_expression(bool with_condition = true);
  /// One expression, or several with commas between: a tuple.
  ExpressionPtr parse_tuple(bool with_condition = true);
  /// "name(arguments)" of a filter applied to `value`.
  ExpressionPtr parse_one_filter(ExpressionPtr value);
  ExpressionPtr make(ExpressionKind kind) const;

 private:
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filter = true);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_number();
  ExpressionPtr parse_parenthesis();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_filters(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr value);
  ExpressionPtr parse_attribute(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_test(ExpressionPtr value);
  void parse_arguments(Expression& call);
};

class TemplateParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;
  Body parse();

 private:
  using StatementPtr = std::unique_ptr<Statement>;
  /// Statements up to a block whose first word is one of `ends`, or to the end of the file.
  Body parse_body(const std::vector<std::string_view>& ends);
  /// parse_body up to "{% end %}", which is consumed.
  Body parse_block(std::string_view end);
  StatementPtr parse_statement();
  StatementPtr parse_if();
  StatementPtr parse_for();
  StatementPtr parse_set();
  StatementPtr parse_macro();
  StatementPtr parse_filter_block();
  StatementPtr parse_with();
  StatementPtr statement(StatementKind kind) const;
  Target parse_target();
  std::vector<Target> parse_targets();

  int loop_depth_ = 0;
};

}  // namespace d2q::jinja
