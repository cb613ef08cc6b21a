// Escapes of string literals.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace d2q::jinja {

/// What a literal with the given text between its quotes stands for; unknown escapes stand for
/// themselves. nullopt for an escape that is cut short or beyond Unicode.
std::optional<std::string> unescape_string(std::string_view body);

}  // namespace d2q::jinja
