// A template's source cut into tokens, with Jinja's whitespace control as chat templates use it:
// trim_blocks, lstrip_blocks, one newline at the very end dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace d2q::jinja {

enum class TokenKind {
  kData,         // text outside of tags; never empty
  kOutputBegin,  // {{
  kOutputEnd,    // }}
  kBlockBegin,   // {%
  kBlockEnd,     // %}
  kName,
  kString,  // `text` without quotes and escapes
  kInteger,
  kFloat,
  kOperator,  // brackets and punctuation too
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
};

/// The tokens of `source`, a kEnd last. Throws Error{kCorrupt} naming `name` and the line on
/// malformed UTF-8, a tag or comment without end, and an unknown character.
std::vector<Token> tokenize_template(std::string_view source, const std::string& name);

}  // namespace d2q::jinja
