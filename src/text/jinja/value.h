// The values of a template: Python's, as far as chat templates use them. Lists and dictionaries
// never change once made (the sandbox that templates are written for forbids it); a namespace does.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace d2q::jinja {

/// Lists and dictionaries inside each other.
inline constexpr int kMaxValueDepth = 100;
/// Bytes of a value with everything in it, a shared part counted each time.
inline constexpr size_t kMaxValueWeight = size_t{1} << 30;
/// Parts that one loop, split or list may have.
inline constexpr size_t kMaxElements = size_t{1} << 20;

struct List;
class Dict;
struct Namespace;
struct Macro;
struct LoopState;

/// Something that can only be called: a global function, or a method that was not called.
struct Function {
  std::string name;
};

class Value {
 public:
  enum class Kind {
    kUndefined,
    kNone,
    kBoolean,
    kInteger,
    kFloat,
    kText,
    kList,  // a tuple too
    kDict,
    kNamespace,
    kMacro,
    kLoop,
    kFunction
  };

  Value() = default;  // undefined
  static Value undefined(std::string why);
  static Value none() { return Value(None{}); }
  static Value boolean(bool value) { return Value(value); }
  static Value integer(int64_t value) { return Value(value); }
  static Value number(double value) { return Value(value); }
  static Value text(std::string value) {
    return Value(std::make_shared<const std::string>(std::move(value)));
  }
  /// Throws Error{kUnsupported} beyond kMaxValueDepth or kMaxValueWeight and for an element that
  /// lives only as long as a loop or a scope.
  static Value list(std::vector<Value> items, bool is_tuple = false);
  /// Later entries of the same key replace earlier ones in place.
  static Value dict(std::vector<std::pair<std::string, Value>> entries);
  static Value of(Namespace* value) { return Value(value); }
  static Value of(const Macro* value) { return Value(value); }
  static Value of(LoopState* value) { return Value(value); }
  static Value function(std::string name) {
    return Value(std::make_shared<const Function>(Function{std::move(name)}));
  }
  /// Throws Error{kUnsupported} for an integer beyond 64 bits, and as list() does.
  static Value from_json(const nlohmann::ordered_json& json);

  Kind kind() const noexcept { return static_cast<Kind>(data_.index()); }
  bool is(Kind wanted) const noexcept { return kind() == wanted; }
  bool is_undefined() const noexcept { return is(Kind::kUndefined); }
  bool is_number() const noexcept {  // Python's bool is an int
    return is(Kind::kBoolean) || is(Kind::kInteger) || is(Kind::kFloat);
  }
  bool is_integral() const noexcept { return is(Kind::kBoolean) || is(Kind::kInteger); }
  /// "'x' is undefined", for messages.
  std::string why_undefined() const;

  bool as_boolean() const { return std::get<bool>(data_); }
  /// Of a boolean or an integer.
  int64_t as_integer() const;
  /// Of any number.
  double as_number() const;
  const std::string& as_text() const { return *std::get<TextPtr>(data_); }
  const List& as_list() const { return *std::get<ListPtr>(data_); }
  const Dict& as_dict() const { return *std::get<DictPtr>(data_); }
  Namespace& as_namespace() const { return *std::get<Namespace*>(data_); }
  const Macro& as_macro() const { return *std::get<const Macro*>(data_); }
  LoopState& as_loop() const { return *std::get<LoopState*>(data_); }
  const Function& as_function() const { return *std::get<FunctionPtr>(data_); }

  /// Python's bool(x).
  bool truth() const;
  /// "text", "a list", ... for messages.
  std::string_view type_name() const;
  int depth() const noexcept;
  /// About the bytes that it takes, or would take if nothing in it were shared: what printing or
  /// comparing it costs.
  size_t weight() const noexcept;

 private:
  struct Undefined {
    std::shared_ptr<const std::string> why;
  };
  struct None {};
  using TextPtr = std::shared_ptr<const std::string>;
  using ListPtr = std::shared_ptr<const List>;
  using DictPtr = std::shared_ptr<const Dict>;
  using FunctionPtr = std::shared_ptr<const Function>;
  using Data = std::variant<Undefined, None, bool, int64_t, double, TextPtr, ListPtr, DictPtr,
                            Namespace*, const Macro*, LoopState*, FunctionPtr>;

  template <typename T>
  explicit Value(T data) : data_(std::move(data)) {}

  Data data_;
};

/// How deep and how heavy a container is.
struct Extent {
  int depth = 1;
  size_t weight = 64;
  void add(const Value& element);
};

struct List {
  std::vector<Value> items;
  bool is_tuple = false;
  Extent extent;
};

/// In the order of insertion.
class Dict {
 public:
  using Entry = std::pair<std::string, Value>;
  explicit Dict(std::vector<Entry> entries);
  const std::vector<Entry>& entries() const noexcept { return entries_; }
  const Value* find(std::string_view key) const;
  const Extent& extent() const noexcept { return extent_; }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, size_t> index_;  // views into entries_
  Extent extent_;
};

/// namespace(): the one thing whose members a template can set. The renderer owns it.
struct Namespace {
  std::vector<std::pair<std::string, Value>> members;
  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

/// Python's ==.
bool equal(const Value& a, const Value& b);
/// Python's <, of numbers, texts and lists. Throws Error{kInvalidArgument} for other pairs.
bool less(const Value& a, const Value& b);
/// Python's `item in container`.
bool contains(const Value& container, const Value& item);
/// What a loop goes through: elements, keys, characters; nothing for undefined. Throws
/// Error{kInvalidArgument} for what cannot be iterated, Error{kUnsupported} beyond kMaxElements.
std::vector<Value> elements(const Value& value);

}  // namespace d2q::jinja
