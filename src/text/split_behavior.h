// What becomes of the delimiters at which text is cut.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "text/json_view.h"

namespace d2q {

enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,  // neighbouring delimiters are one word
};

/// "Removed", "MergedWithNext", ... as a file writes it.
SplitBehavior parse_split_behavior(const JsonView& json);

/// A part of the text; the parts of a text cover it in order, and may be empty.
struct TextPart {
  size_t start = 0;
  size_t end = 0;
  bool is_delimiter = false;
};

/// Appends the words that `parts` of `text` make, without the empty ones. `parts` is scratch.
void append_words(std::string_view text, std::vector<TextPart>& parts, SplitBehavior behavior,
                  std::vector<std::string_view>& words);

}  // namespace d2q
