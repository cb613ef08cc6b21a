// The parsed template: expressions and statements as trees.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace d2q::jinja {

enum class ExpressionKind {
  kConstant,     // value
  kName,         // name
  kList,         // children: elements
  kTuple,        // children: elements
  kDict,         // children: key, value, key, value, ...
  kNot,          // children: operand
  kNegate,       // children: operand
  kPlus,         // children: operand
  kAnd,          // children: left, right
  kOr,           // children: left, right
  kBinary,       // name: + - * / // % **; children: left, right
  kConcat,       // children: all that '~' joins
  kCompare,      // names: == != < <= > >= in "not in"; children: one more than names
  kConditional,  // children: value, condition, other (may be null)
  kAttribute,    // children: object; name
  kItem,         // children: object, index
  kSlice,        // children: object, start, stop, step (each may be null)
  kCall,         // children: callee, then the arguments; keywords
  kFilter,       // children: value (null in a filter block), then the arguments; name, keywords
  kTest          // children: value, then the arguments; name, keywords
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 1;
  Value value;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> children;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
};

enum class StatementKind {
  kData,      // text
  kOutput,    // expression
  kIf,        // branches, body is that of else
  kFor,       // targets, expression, condition (may be null), body, otherwise
  kSet,       // targets, expression
  kSetBlock,  // targets (one), body; filters applied to the text
  kFilter,    // filters, body
  kScope,     // body, in a scope of its own where targets have the values (with, generation)
  kMacro,     // text is the name; parameters, body
  kBreak,
  kContinue
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

/// `name`, or `name.member` of a namespace.
struct Target {
  std::string name;
  std::string member;
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  int line = 1;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<Target> targets;
  std::vector<ExpressionPtr> filters;
  std::vector<ExpressionPtr> values;                              // of the targets of kScope
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // default may be null
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body body;
  Body otherwise;
};

}  // namespace d2q::jinja
