#include "text/jinja/renderer.h"

#include "base/error.h"

namespace d2q::jinja {

using Kind = Value::Kind;

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->around_) {
    const auto found = scope->variables_.find(name);
    if (found != scope->variables_.end()) return &found->second;
  }
  return nullptr;
}

std::string Renderer::render(const Body& body) {
  Scope scope(&globals_);
  run(body, scope);
  return std::move(output_);
}

void Renderer::write(std::string_view text) {
  budget_.spend_steps(text.size() / 256);
  budget_.check_output(output_.size() + text.size());
  output_ += text;
}

std::string Renderer::capture(const Body& body, Scope& scope) {
  std::string outside = std::exchange(output_, {});
  run(body, scope);
  std::string inside = std::exchange(output_, std::move(outside));
  budget_.spend_bytes(inside.size());
  return inside;
}

Renderer::Flow Renderer::run(const Body& body, Scope& scope) {
  const DepthGuard depth(budget_);
  for (const auto& statement : body) {
    const Flow flow = run(*statement, scope);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Renderer::Flow Renderer::run(const Statement& statement, Scope& scope) {
  line_ = statement.line;
  budget_.spend_steps();
  switch (statement.kind) {
    case StatementKind::kData:
      write(statement.text);
      break;
    case StatementKind::kOutput:
      write(print(evaluate(*statement.expression, scope), budget_));
      break;
    case StatementKind::kIf:
      return run_if(statement, scope);
    case StatementKind::kFor:
      return run_for(statement, scope);
    case StatementKind::kSet:
      unpack(statement.targets, evaluate(*statement.expression, scope), scope);
      break;
    case StatementKind::kSetBlock: {
      Scope inner(&scope);
      Value text = filtered(statement, capture(statement.body, inner), scope);
      set(statement.targets.front(), std::move(text), scope);
      break;
    }
    case StatementKind::kFilter: {
      Scope inner(&scope);
      write(print(filtered(statement, capture(statement.body, inner), scope), budget_));
      break;
    }
    case StatementKind::kScope:
      run_scope(statement, scope);
      break;
    case StatementKind::kMacro:
      budget_.spend_bytes(sizeof(Macro));
      macros_.push_back({statement, scope});
      scope.set(statement.text, Value::of(&macros_.back()));
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Renderer::Flow Renderer::run_if(const Statement& statement, Scope& scope) {
  for (const auto& [condition, body] : statement.branches) {
    if (evaluate(*condition, scope).truth()) return run(body, scope);
  }
  return run(statement.body, scope);
}

Renderer::Flow Renderer::run_for(const Statement& statement, Scope& scope) {
  std::vector<Value> items = iterate(evaluate(*statement.expression, scope), budget_);
  if (statement.condition) {
    std::vector<Value> chosen;
    for (Value& item : items) {
      Scope inner(&scope);
      unpack(statement.targets, item, inner);
      if (evaluate(*statement.condition, inner).truth()) chosen.push_back(std::move(item));
    }
    items = std::move(chosen);
  }
  if (items.empty()) return run(statement.otherwise, scope);
  LoopState loop{items};
  for (; loop.index < items.size(); ++loop.index) {
    budget_.spend_steps();
    Scope inner(&scope);
    inner.set("loop", Value::of(&loop));
    unpack(statement.targets, items[loop.index], inner);
    if (run(statement.body, inner) == Flow::kBreak) break;
  }
  return Flow::kNext;
}

void Renderer::run_scope(const Statement& statement, Scope& scope) {
  Scope inner(&scope);
  for (size_t i = 0; i < statement.targets.size(); ++i) {
    inner.set(statement.targets[i].name, evaluate(*statement.values[i], scope));
  }
  run(statement.body, inner);
}

Value Renderer::filtered(const Statement& statement, std::string text, Scope& scope) {
  Value value = Value::text(std::move(text));
  for (const ExpressionPtr& filter : statement.filters) {
    value = apply_filter(filter->name, value, arguments_of(*filter, scope), budget_);
  }
  return value;
}

void Renderer::set(const Target& target, Value value, Scope& scope) {
  if (target.member.empty()) {
    budget_.spend_bytes(sizeof(Value));
    scope.set(target.name, std::move(value));
    return;
  }
  const Value object = look_up(target.name, scope);
  if (!object.is(Kind::kNamespace)) {
    fail(ErrorCode::kInvalidArgument, "'{}' is {}; only members of a namespace can be set",
         target.name, object.type_name());
  }
  Namespace& members = object.as_namespace();
  budget_.spend_steps(members.members.size() / 4);
  budget_.spend_bytes(sizeof(Value));
  members.set(target.member, std::move(value));
}

void Renderer::unpack(const std::vector<Target>& targets, const Value& value, Scope& scope) {
  if (targets.size() == 1) return set(targets.front(), value, scope);
  const std::vector<Value> parts = iterate(value, budget_);
  if (parts.size() != targets.size()) {
    fail(ErrorCode::kInvalidArgument, "{} of {} elements cannot be unpacked into {} names",
         value.type_name(), parts.size(), targets.size());
  }
  for (size_t i = 0; i < targets.size(); ++i) set(targets[i], parts[i], scope);
}

}  // namespace d2q::jinja
