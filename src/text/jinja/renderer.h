// Walks a parsed template and writes its text.
#pragma once

#include <ctime>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

#include "text/jinja/ast.h"
#include "text/jinja/builtins.h"

namespace d2q::jinja {

/// Variables; those of the scopes around it are seen through it.
class Scope {
 public:
  explicit Scope(const Scope* around) : around_(around) {}
  void set(const std::string& name, Value value) { variables_[name] = std::move(value); }
  /// Null when no scope has it.
  const Value* find(const std::string& name) const;

 private:
  const Scope* around_;
  std::unordered_map<std::string, Value> variables_;
};

struct Macro {
  const Statement& definition;
  const Scope& scope;  // what its body sees besides its parameters
};

/// One rendering. Not thread-safe.
class Renderer {
 public:
  Renderer(const Scope& globals, const std::tm& now, Budget& budget)
      : globals_(globals), now_(now), budget_(budget) {}

  /// Throws Error without a place; line() says where it was.
  std::string render(const Body& body);
  int line() const noexcept { return line_; }

 private:
  enum class Flow { kNext, kBreak, kContinue };

  Flow run(const Body& body, Scope& scope);
  Flow run(const Statement& statement, Scope& scope);
  Flow run_if(const Statement& statement, Scope& scope);
  Flow run_for(const Statement& statement, Scope& scope);
  void run_scope(const Statement& statement, Scope& scope);
  void set(const Target& target, Value value, Scope& scope);
  void unpack(const std::vector<Target>& targets, const Value& value, Scope& scope);
  std::string capture(const Body& body, Scope& scope);
  Value filtered(const Statement& statement, std::string text, Scope& scope);
  void write(std::string_view text);

  Value evaluate(const Expression& expression, Scope& scope);
  Value look_up(const std::string& name, const Scope& scope) const;
  Value evaluate_dict(const Expression& expression, Scope& scope);
  Value evaluate_compare(const Expression& expression, Scope& scope);
  Value evaluate_slice(const Expression& expression, Scope& scope);
  Value evaluate_call(const Expression& expression, Scope& scope);
  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& expressions, size_t first,
                                  Scope& scope);
  Arguments arguments_of(const Expression& call, Scope& scope);
  Value call_macro(const Macro& macro, const Arguments& arguments);
  Value call_global(const std::string& name, const Arguments& arguments);
  Value make_namespace(const Arguments& arguments);
  Value make_range(const Arguments& arguments);
  Value format_time(const Arguments& arguments);

  const Scope& globals_;
  const std::tm& now_;
  Budget& budget_;
  std::string output_;  // of the innermost capture
  std::deque<Namespace> namespaces_;
  std::deque<Macro> macros_;
  int line_ = 1;
};

}  // namespace d2q::jinja
