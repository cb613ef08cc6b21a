#include "cli/layer_override.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "cli/usage.h"

namespace d2q::cli {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  throw UsageError(fmt::format(
      "--layer: '{}' is not REGEX=bits=B,group=G (either setting may be left out)", text));
}

size_t settings_begin(std::string_view text) {
  const size_t bits = text.rfind("=bits=");
  const size_t group = text.rfind("=group=");
  if (bits == std::string_view::npos) return group;
  if (group == std::string_view::npos) return bits;
  return std::max(bits, group);
}

}  // namespace

LayerOverride parse_layer_override(const std::string& text) {
  const size_t begin = settings_begin(text);
  if (begin == std::string::npos || begin == 0) refuse(text);
  LayerOverride result;
  result.pattern = text.substr(0, begin);
  std::string_view settings = std::string_view(text).substr(begin + 1);
  while (!settings.empty()) {
    const std::string_view setting = settings.substr(0, settings.find(','));
    settings.remove_prefix(std::min(settings.size(), setting.size() + 1));
    const size_t equals = setting.find('=');
    if (equals == std::string_view::npos) refuse(text);
    const std::string_view key = setting.substr(0, equals);
    const std::string_view digits = setting.substr(equals + 1);
    int value = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() || value <= 0)
      refuse(text);
    if (key == "bits") {
      result.bits = value;
    } else if (key == "group") {
      result.group_size = value;
    } else {
      refuse(text);
    }
  }
  return result;
}

}  // namespace d2q::cli
