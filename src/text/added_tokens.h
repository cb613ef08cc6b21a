// Added tokens: strings that stand for one token wherever they occur in the text, found before the
// text is cut into words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace d2q {

inline constexpr size_t kMaxAddedTokens = size_t{1} << 18;
inline constexpr size_t kMaxAddedTokenBytes = 1024;

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalized text, in normalized form
  bool special = false;      // left out of decoded text
};

/// A part of the text: an added token, or text between two of them (id nullopt).
struct AddedTokenPart {
  std::string_view text;
  std::optional<int32_t> id;
};

/// Finds a set of strings, leftmost first and longest at each place. Immutable; thread-safe.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  /// `patterns[i]` is the form of `tokens[i]` to look for; empty patterns are never found.
  AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& patterns);

  /// Cuts valid UTF-8 into parts that cover it, in order. Empty text gives no parts.
  void split(std::string_view text, std::vector<AddedTokenPart>& parts) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> next;  // sorted by byte
    int32_t token = -1;                             // index into tokens_
  };
  struct Match {
    size_t length = 0;
    int32_t token = -1;
  };
  int32_t child(int32_t node, uint8_t byte) const;
  Match longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

}  // namespace d2q
