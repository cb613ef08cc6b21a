#include "text/split_behavior.h"

#include <algorithm>

namespace d2q {
namespace {

/// Joins each delimiter to the part before it, unless that is a delimiter too.
void merge_with_previous(std::vector<TextPart>& parts) {
  size_t kept = 0;
  bool previous = false;
  for (const TextPart& part : std::vector<TextPart>(parts)) {
    if (part.is_delimiter && !previous && kept > 0) {
      parts[kept - 1].end = part.end;
    } else {
      parts[kept++] = part;
    }
    previous = part.is_delimiter;
  }
  parts.resize(kept);
}

void merge_with_next(std::vector<TextPart>& parts) {
  std::vector<TextPart> merged;
  bool previous = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->is_delimiter && !previous && !merged.empty()) {
      merged.back().start = part->start;
    } else {
      merged.push_back(*part);
    }
    previous = part->is_delimiter;
  }
  std::reverse(merged.begin(), merged.end());
  parts = std::move(merged);
}

void merge_contiguous(std::vector<TextPart>& parts) {
  size_t kept = 0;
  bool previous = false;
  for (const TextPart& part : std::vector<TextPart>(parts)) {
    if (part.is_delimiter == previous && kept > 0) {
      parts[kept - 1].end = part.end;
    } else {
      parts[kept++] = part;
    }
    previous = part.is_delimiter;
  }
  parts.resize(kept);
}

}  // namespace

SplitBehavior parse_split_behavior(const JsonView& json) {
  const std::string name = json.as_string();
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  json.unsupported("split behavior '" + name + "'");
}

void append_words(std::string_view text, std::vector<TextPart>& parts, SplitBehavior behavior,
                  std::vector<std::string_view>& words) {
  switch (behavior) {
    case SplitBehavior::kRemoved:
      std::erase_if(parts, [](const TextPart& part) { return part.is_delimiter; });
      break;
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kMergedWithPrevious:
      merge_with_previous(parts);
      break;
    case SplitBehavior::kMergedWithNext:
      merge_with_next(parts);
      break;
    case SplitBehavior::kContiguous:
      merge_contiguous(parts);
      break;
  }
  for (const TextPart& part : parts) {
    if (part.start < part.end) words.push_back(text.substr(part.start, part.end - part.start));
  }
}

}  // namespace d2q
