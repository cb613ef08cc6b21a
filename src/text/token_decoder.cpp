#include "text/token_decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace d2q {
namespace {

/// "<0x0A>" is the byte 0x0A.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace

TokenDecoder::TokenDecoder(const JsonView& json) : byte_level_(false) { append(json); }

void TokenDecoder::append(const JsonView& json) {
  const std::string type = json.string("type");
  if (type == "Sequence") {
    for (const JsonView& part : json.at("decoders").items()) append(part);
  } else if (type == "ByteLevel") {
    byte_level_ = true;
  } else if (type == "ByteFallback") {
    byte_fallback_ = true;
  } else if (type == "Replace") {
    const std::string pattern = json.at("pattern").string("String");
    if (pattern.empty()) json.unsupported("an empty pattern");
    replacements_.emplace_back(pattern, json.string("content"));
  } else if (type == "Metaspace") {
    const std::string mark = json.string("replacement");
    if (mark.empty()) json.unsupported("an empty replacement");
    replacements_.emplace_back(mark, " ");
    const bool adds_prefix = json.boolean("add_prefix_space", true);
    if (json.string_or("prepend_scheme", adds_prefix ? "always" : "never") != "never") {
      first_mark_ = mark;
    }
  } else if (type == "Strip") {
    strip_content_ = json.string("content");
    if (strip_content_.empty()) json.unsupported("an empty content");
    strip_start_ = static_cast<size_t>(std::max<int64_t>(0, json.at("start").as_integer()));
    strip_stop_ = static_cast<size_t>(std::max<int64_t>(0, json.at("stop").as_integer()));
  } else if (type != "Fuse") {  // tokens are joined without gaps anyway
    json.unsupported("decoder '" + type + "'");
  }
}

std::string TokenDecoder::bytes(std::string_view token) const {
  if (byte_level_) {
    // A token with other characters than the alphabet's stands for itself.
    std::optional<std::string> decoded = from_alphabet(token);
    return decoded ? *std::move(decoded) : std::string(token);
  }
  if (byte_fallback_) {
    if (const std::optional<char> byte = fallback_byte(token)) return std::string(1, *byte);
  }
  std::string text(token);
  for (const auto& [from, to] : replacements_) replace_all(text, from, to);
  return text;
}

std::string TokenDecoder::text(std::span<const std::string_view> tokens) const {
  std::string out;
  std::string run;  // of bytes from byte tokens
  const auto end_run = [&] {
    if (is_valid_utf8(run)) {
      out += run;
    } else {
      // The reference gives up on the whole run, byte by byte.
      for (size_t i = 0; i < run.size(); ++i) append_utf8(out, kReplacementCharacter);
    }
    run.clear();
  };
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::string_view token = tokens[i];
    std::string unmarked;
    if (i == 0 && !first_mark_.empty()) {
      unmarked = token;
      replace_all(unmarked, first_mark_, "");
      token = unmarked;
    }
    const std::optional<char> byte =
        byte_fallback_ && !byte_level_ ? fallback_byte(token) : std::nullopt;
    if (byte) {
      run += *byte;
    } else {
      end_run();
      out += bytes(token);
    }
  }
  end_run();
  for (size_t i = 0; i < strip_start_ && out.starts_with(strip_content_); ++i) {
    out.erase(0, strip_content_.size());
  }
  for (size_t i = 0; i < strip_stop_ && out.ends_with(strip_content_); ++i) {
    out.resize(out.size() - strip_content_.size());
  }
  return is_valid_utf8(out) ? out : replace_malformed_utf8(out);
}

}  // namespace d2q
