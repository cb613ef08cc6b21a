#include "base/error.h"
#include "text/jinja/parser.h"

namespace d2q::jinja {
namespace {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
      return "'%}'";
    case TokenKind::kOutputEnd:
      return "'}}'";
    case TokenKind::kString:
      return "a text";
    default:
      return "'" + token.text + "'";
  }
}

}  // namespace

const Token& TokenReader::take() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenReader::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  take();
  return true;
}

bool TokenReader::skip_word(std::string_view text) {
  if (!is_word(text)) return false;
  take();
  return true;
}

void TokenReader::expect_operator(std::string_view text) {
  if (!skip_operator(text)) unexpected("'" + std::string(text) + "'");
}

void TokenReader::expect(TokenKind kind, std::string_view what) {
  if (current().kind != kind) unexpected(what);
  take();
}

std::string TokenReader::expect_name() {
  if (current().kind != TokenKind::kName) unexpected("a name");
  return take().text;
}

void TokenReader::unexpected(std::string_view wanted) const {
  fail(ErrorCode::kCorrupt, "{}:{}: found {}, expected {}", name_, current().line,
       describe(current()), wanted);
}

void TokenReader::unsupported(std::string_view what) const {
  fail(ErrorCode::kUnsupported, "{}:{}: {} is not supported", name_, current().line, what);
}

void TokenReader::check_depth(int length) const {
  if (length > kMaxTemplateDepth) {
    fail(ErrorCode::kUnsupported, "{}:{}: the template nests deeper than {} levels", name_,
         current().line, kMaxTemplateDepth);
  }
}

}  // namespace d2q::jinja
