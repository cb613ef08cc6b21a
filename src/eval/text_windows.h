// A text as the windows that perplexity and divergence are measured on: tokenized whole without BOS
// and cut at multiples of the stride; what does not fill a window at the end is dropped.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace d2q {

struct WindowOptions {
  int64_t ctx = 2048;  // tokens a window, at least 2
  // Tokens from one window's start to the next one's, 1 to ctx; 0 = ctx: no overlap.
  int64_t stride = 0;
  int64_t max_windows = 0;  // only the first so many; 0 = all
  // Read only the text's first so many bytes, cut between characters; 0 = all.
  int64_t limit_bytes = 0;
};

class TextWindows {
 public:
  /// Throws Error{kInvalidArgument} for bad options or a text shorter than one window and
  /// Error{kCorrupt} when the tokenizer's ids exceed `vocab_size`.
  TextWindows(const Tokenizer& tokenizer, std::string_view text, int64_t vocab_size,
              const WindowOptions& options);

  int64_t ctx() const noexcept { return ctx_; }
  int64_t stride() const noexcept { return stride_; }
  int64_t count() const noexcept { return count_; }
  /// The ids of window `index`, [ctx].
  std::span<const int32_t> window(int64_t index) const;
  /// Tokens that window `index` scores, its last ones: all but its first, or only the `stride` that
  /// the window before did not see.
  int64_t n_scored(int64_t index) const {
    return index == 0 || stride_ == ctx_ ? ctx_ - 1 : stride_;
  }
  /// All of them.
  int64_t n_scored() const;
  /// The ids of `n` windows one after another.
  std::vector<int32_t> batch(int64_t first, int64_t n) const;
  /// Windows that go through a model together.
  int64_t batch_size() const;

  bool operator==(const TextWindows&) const = default;

 private:
  std::vector<int32_t> ids_;
  int64_t ctx_;
  int64_t stride_;
  int64_t count_;
};

}  // namespace d2q
