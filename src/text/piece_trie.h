// All vocabulary strings that a text begins with.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace d2q {

/// A trie over bytes whose nodes stand level by level, so that children are neighbours. 16 bytes a
/// node, at most one node a byte of the pieces. Immutable and thread-safe.
class PieceTrie {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 26;

  PieceTrie() = default;
  /// Empty pieces are left out; of equal ones the last counts. Throws Error{kUnsupported} for more
  /// than kMaxBytes.
  explicit PieceTrie(std::vector<std::pair<std::string_view, int32_t>> pieces);

  /// Calls found(length, id) for every piece that `text` begins with, shortest first.
  template <typename Found>
  void prefixes(std::string_view text, Found found) const {
    if (text.empty()) return;
    uint32_t at = roots_[static_cast<uint8_t>(text[0])];
    for (size_t length = 1; at != kNone; ++length) {
      const Node& node = nodes_[at];
      if (node.id >= 0) found(length, node.id);
      at = length < text.size() ? child(node, static_cast<uint8_t>(text[length])) : kNone;
    }
  }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  struct Node {
    uint32_t first_child = 0;
    int32_t id = -1;
    uint16_t n_children = 0;
    uint8_t byte = 0;
  };
  uint32_t child(const Node& node, uint8_t byte) const;

  std::vector<Node> nodes_;
  std::array<uint32_t, 256> roots_{};
};

}  // namespace d2q
