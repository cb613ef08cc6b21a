// Regular expressions of tokenizer files. They are written for Oniguruma, in the dialect that the
// reference tokenizers use; here they run on PCRE2 (UTF, UCP, JIT) after a translation of what the
// two read differently. Constructs whose meaning would differ are refused.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace d2q {

inline constexpr size_t kMaxPatternBytes = size_t{1} << 16;

/// The PCRE2 pattern that means what `pattern` means to Oniguruma. Throws Error{kUnsupported},
/// naming `source`, on a construct outside the common subset, Error{kCorrupt} on a broken one.
std::string translate_pattern(std::string_view pattern, std::string_view source);

/// Escapes `text` so that it matches itself.
std::string escape_pattern(std::string_view text);

/// A compiled pattern. Immutable and thread-safe; each thread matches through its own Matcher.
class Regex {
 public:
  /// `pattern` in Oniguruma's dialect. Throws as translate_pattern does.
  Regex(std::string_view pattern, std::string_view source);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  struct Match {
    size_t start = 0;
    size_t end = 0;
  };

  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    ~Matcher();
    Matcher(const Matcher&) = delete;
    Matcher& operator=(const Matcher&) = delete;

    /// Starts over on `text`, which must be valid UTF-8 and outlive the search.
    void reset(std::string_view text);
    /// The next match, false when there is none. An empty match right behind the previous match is
    /// passed over, as Oniguruma's iterator does. Throws Error{kUnsupported} when the pattern needs
    /// more backtracking than PCRE2's match limit.
    bool next(Match& match);

   private:
    const Regex& regex_;
    struct Data;
    std::unique_ptr<Data> data_;
    std::string_view text_;
    size_t from_ = 0;
    size_t last_end_ = 0;
    bool has_last_ = false;
  };

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace d2q
