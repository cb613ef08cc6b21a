// Reading a parsed JSON file with errors that name the place: "tokenizer.json: model.vocab: ...".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace d2q {

/// A value and the path that leads to it. Cheap to copy; the document must outlive it.
class JsonView {
 public:
  /// `path` starts with the file's name.
  JsonView(const nlohmann::json& value, std::string path)
      : value_(&value), path_(std::move(path)) {}

  const nlohmann::json& value() const noexcept { return *value_; }
  const std::string& path() const noexcept { return path_; }

  /// A member that is there and not null. All below throw Error{kCorrupt} on another type.
  std::optional<JsonView> find(std::string_view key) const;
  /// Throws Error{kCorrupt} when it is missing.
  JsonView at(std::string_view key) const;
  std::vector<JsonView> items() const;

  std::string as_string() const;
  int64_t as_integer() const;

  std::string string(std::string_view key) const { return at(key).as_string(); }
  bool boolean(std::string_view key, bool fallback) const;
  /// A text member with a default.
  std::string string_or(std::string_view key, std::string_view fallback) const;

  /// Throws Error{kUnsupported}: "<path>: <what> is not supported".
  [[noreturn]] void unsupported(std::string_view what) const;
  [[noreturn]] void corrupt(std::string_view expected) const;

 private:
  const nlohmann::json* value_;
  std::string path_;
};

}  // namespace d2q
