#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q {
namespace {

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeContext {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, FreeCode> code;
  std::string source;
  bool jit = false;
};

struct Regex::Matcher::Data {
  std::unique_ptr<pcre2_match_data, FreeMatch> match;
};

Regex::Regex(std::string_view pattern, std::string_view source) : code_(std::make_unique<Code>()) {
  const std::string translated = translate_pattern(pattern, source);
  const std::unique_ptr<pcre2_compile_context, FreeContext> context(
      pcre2_compile_context_create(nullptr));
  D2Q_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_bsr(context.get(), PCRE2_BSR_UNICODE);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->source = source;
  code_->code.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get()));
  if (!code_->code) {
    fail(ErrorCode::kUnsupported, "{}: pattern '{}' does not compile ({} at byte {} of '{}')",
         source, pattern, error_text(error), offset, translated);
  }
  // Where the system forbids executable memory, the interpreter does the same work slower.
  code_->jit = pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

Regex::Matcher::Matcher(const Regex& regex) : regex_(regex), data_(std::make_unique<Data>()) {
  data_->match.reset(pcre2_match_data_create_from_pattern(regex_.code_->code.get(), nullptr));
  D2Q_CHECK(data_->match != nullptr, "out of memory");
}

Regex::Matcher::~Matcher() = default;

void Regex::Matcher::reset(std::string_view text) {
  text_ = text;
  from_ = 0;
  has_last_ = false;
}

bool Regex::Matcher::next(Match& match) {
  const Code& regex = *regex_.code_;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  while (from_ <= text_.size()) {
    int result = regex.jit ? pcre2_jit_match(regex.code.get(), subject, text_.size(), from_,
                                             PCRE2_NO_UTF_CHECK, data_->match.get(), nullptr)
                           : PCRE2_ERROR_JIT_STACKLIMIT;
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(regex.code.get(), subject, text_.size(), from_,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data_->match.get(), nullptr);
    }
    if (result == PCRE2_ERROR_NOMATCH) {
      from_ = text_.size() + 1;
      return false;
    }
    if (result < 0) {
      fail(ErrorCode::kUnsupported,
           "{}: matching its pattern failed ({}); a pattern that backtracks too much?",
           regex.source, error_text(result));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_->match.get());
    match = {bounds[0], bounds[1]};
    if (match.start == match.end && has_last_ && last_end_ == match.end) {
      from_ += from_ < text_.size() ? next_valid_utf8(text_, from_).length : 1;
      continue;
    }
    from_ = match.end;
    last_end_ = match.end;
    has_last_ = true;
    return true;
  }
  return false;
}

}  // namespace d2q
