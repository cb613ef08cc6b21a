#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode_classes.h"
#include "text/utf8.h"

namespace d2q {
namespace {

size_t space_before(std::string_view text, size_t end) {
  while (end > 0) {
    const Utf8Step step = previous_valid_utf8(text, end);
    if (!is_white_space(step.code_point)) break;
    end -= step.length;
  }
  return end;
}

size_t space_after(std::string_view text, size_t start) {
  while (start < text.size()) {
    const Utf8Step step = next_valid_utf8(text, start);
    if (!is_white_space(step.code_point)) break;
    start += step.length;
  }
  return start;
}

bool touches_word(std::string_view text, size_t start, size_t end) {
  return (start > 0 && is_word_character(previous_valid_utf8(text, start).code_point)) ||
         (end < text.size() && is_word_character(next_valid_utf8(text, end).code_point));
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens,
                                     const std::vector<std::string>& patterns)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t index = 0; index < patterns.size(); ++index) {
    if (patterns[index].empty()) continue;
    starts_[static_cast<uint8_t>(patterns[index].front())] = true;
    int32_t node = 0;
    for (const char character : patterns[index]) {
      const auto byte = static_cast<uint8_t>(character);
      int32_t next = child(node, byte);
      if (next < 0) {
        next = static_cast<int32_t>(nodes_.size());
        auto& edges = nodes_[static_cast<size_t>(node)].next;
        edges.insert(std::upper_bound(edges.begin(), edges.end(), std::pair{byte, next}),
                     {byte, next});
        nodes_.emplace_back();
      }
      node = next;
    }
    int32_t& token = nodes_[static_cast<size_t>(node)].token;
    if (token < 0) token = static_cast<int32_t>(index);
  }
}

int32_t AddedTokenMatcher::child(int32_t node, uint8_t byte) const {
  const auto& edges = nodes_[static_cast<size_t>(node)].next;
  const auto found = std::lower_bound(edges.begin(), edges.end(), std::pair{byte, int32_t{0}});
  return found != edges.end() && found->first == byte ? found->second : -1;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  Match best;
  int32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    node = child(node, static_cast<uint8_t>(text[i]));
    if (node < 0) break;
    const int32_t token = nodes_[static_cast<size_t>(node)].token;
    if (token >= 0) best = {i + 1 - at, token};
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<AddedTokenPart>& parts) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !nodes_.empty();) {
    if (!starts_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = longest_at(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t start = at;
    size_t end = at + match.length;
    // The search goes on behind the string itself even where the token is refused, or takes white
    // space that another token could start with.
    at = end;
    if (token.single_word && touches_word(text, start, end)) continue;
    if (token.lstrip) start = std::max(space_before(text, start), done);
    if (token.rstrip) end = space_after(text, end);
    if (done < start) parts.push_back({text.substr(done, start - done), std::nullopt});
    parts.push_back({text.substr(start, end - start), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), std::nullopt});
}

}  // namespace d2q
