#include "text/piece_trie.h"

#include <algorithm>

#include "base/error.h"

namespace d2q {

PieceTrie::PieceTrie(std::vector<std::pair<std::string_view, int32_t>> pieces) {
  roots_.fill(kNone);
  std::erase_if(pieces, [](const auto& piece) { return piece.first.empty(); });
  size_t n_bytes = 0;
  for (const auto& piece : pieces) n_bytes += piece.first.size();
  if (n_bytes > kMaxBytes) {
    fail(ErrorCode::kUnsupported, "a vocabulary of {} bytes, the limit is {}", n_bytes, kMaxBytes);
  }
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // A node's pieces, those with its prefix, are neighbours in the sorted list.
  struct Range {
    size_t begin;
    size_t end;
  };
  std::vector<Range> ranges;
  const auto add_children = [&](Range range, size_t depth) {
    while (range.begin < range.end && pieces[range.begin].first.size() == depth) ++range.begin;
    uint16_t n = 0;
    while (range.begin < range.end) {
      const auto byte = static_cast<uint8_t>(pieces[range.begin].first[depth]);
      size_t end = range.begin;
      int32_t id = -1;
      while (end < range.end && static_cast<uint8_t>(pieces[end].first[depth]) == byte) {
        if (pieces[end].first.size() == depth + 1) id = pieces[end].second;
        ++end;
      }
      nodes_.push_back({0, id, 0, byte});
      ranges.push_back({range.begin, end});
      ++n;
      range.begin = end;
    }
    return n;
  };
  const uint16_t n_roots = add_children({0, pieces.size()}, 0);
  for (uint16_t i = 0; i < n_roots; ++i) roots_[nodes_[i].byte] = i;
  size_t level_end = nodes_.size();
  size_t depth = 1;
  for (size_t at = 0; at < nodes_.size(); ++at) {
    if (at == level_end) {
      level_end = nodes_.size();
      ++depth;
    }
    const auto first = static_cast<uint32_t>(nodes_.size());
    const uint16_t n = add_children(ranges[at], depth);
    nodes_[at].first_child = first;
    nodes_[at].n_children = n;
  }
}

uint32_t PieceTrie::child(const Node& node, uint8_t byte) const {
  const auto begin = nodes_.begin() + node.first_child;
  const auto end = begin + node.n_children;
  const auto found = std::lower_bound(begin, end, byte, [](const Node& candidate, uint8_t value) {
    return candidate.byte < value;
  });
  return found != end && found->byte == byte ? static_cast<uint32_t>(found - nodes_.begin())
                                             : kNone;
}

}  // namespace d2q
