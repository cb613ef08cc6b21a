#include "text/json_view.h"

#include "base/error.h"

namespace d2q {

std::optional<JsonView> JsonView::find(std::string_view key) const {
  if (!value_->is_object()) corrupt("an object");
  const auto member = value_->find(key);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return JsonView(*member, path_ + "." + std::string(key));
}

JsonView JsonView::at(std::string_view key) const {
  std::optional<JsonView> member = find(key);
  if (!member) fail(ErrorCode::kCorrupt, "{}: '{}' is missing", path_, key);
  return *std::move(member);
}

std::vector<JsonView> JsonView::items() const {
  if (!value_->is_array()) corrupt("an array");
  std::vector<JsonView> result;
  result.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) {
    result.emplace_back((*value_)[i], fmt::format("{}[{}]", path_, i));
  }
  return result;
}

std::string JsonView::as_string() const {
  if (!value_->is_string()) corrupt("a string");
  return value_->get<std::string>();
}

int64_t JsonView::as_integer() const {
  const bool too_large = value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX;
  if (!value_->is_number_integer() || too_large) corrupt("an integer");
  return value_->get<int64_t>();
}

bool JsonView::boolean(std::string_view key, bool fallback) const {
  const std::optional<JsonView> member = find(key);
  if (!member) return fallback;
  if (!member->value().is_boolean()) member->corrupt("true or false");
  return member->value().get<bool>();
}

std::string JsonView::string_or(std::string_view key, std::string_view fallback) const {
  const std::optional<JsonView> member = find(key);
  return member ? member->as_string() : std::string(fallback);
}

void JsonView::unsupported(std::string_view what) const {
  fail(ErrorCode::kUnsupported, "{}: {} is not supported", path_, what);
}

void JsonView::corrupt(std::string_view expected) const {
  fail(ErrorCode::kCorrupt, "{}: found {}, expected {}", path_, value_->type_name(), expected);
}

}  // namespace d2q
