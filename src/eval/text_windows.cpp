#include "eval/text_windows.h"

#include <algorithm>

#include "base/error.h"

namespace d2q {
namespace {

// Tokens that go through the blocks together: enough rows to keep dense products at full speed.
constexpr int64_t kBatchTokens = 4096;

void check_options(const WindowOptions& options) {
  if (options.ctx < 2)
    fail(ErrorCode::kInvalidArgument, "ctx: {} is not at least 2 tokens", options.ctx);
  if (options.stride < 0 || options.stride > options.ctx) {
    fail(ErrorCode::kInvalidArgument,
         "stride: {} is not between 1 and ctx ({}), or 0 for windows without overlap",
         options.stride, options.ctx);
  }
  if (options.max_windows < 0 || options.limit_bytes < 0) {
    fail(ErrorCode::kInvalidArgument,
         "windows and limit-bytes: {} and {} must be 0 (all) or positive", options.max_windows,
         options.limit_bytes);
  }
}

std::string_view first_bytes(std::string_view text, int64_t limit) {
  if (limit == 0 || static_cast<uint64_t>(limit) >= text.size()) return text;
  auto end = static_cast<size_t>(limit);
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80u) --end;
  return text.substr(0, end);
}

}  // namespace

TextWindows::TextWindows(const Tokenizer& tokenizer, std::string_view text, int64_t vocab_size,
                         const WindowOptions& options)
    : ctx_(options.ctx), stride_(options.stride == 0 ? options.ctx : options.stride) {
  check_options(options);
  text = first_bytes(text, options.limit_bytes);
  if (text.empty()) fail(ErrorCode::kInvalidArgument, "text: it is empty; nothing to score");
  ids_ = tokenizer.encode(text, /*add_special=*/false);
  const auto n = static_cast<int64_t>(ids_.size());
  if (n < ctx_) {
    fail(ErrorCode::kInvalidArgument,
         "text: {} tokens are fewer than one window of {}; give a longer text or a smaller ctx", n,
         ctx_);
  }
  for (const int32_t id : ids_) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorCode::kCorrupt,
           "tokenizer: id {} is outside the model's vocabulary of {}; mixed-up files?", id,
           vocab_size);
    }
  }
  count_ = 1 + (n - ctx_) / stride_;
  if (options.max_windows > 0) count_ = std::min(count_, options.max_windows);
}

std::span<const int32_t> TextWindows::window(int64_t index) const {
  return std::span(ids_).subspan(static_cast<size_t>(index * stride_), static_cast<size_t>(ctx_));
}

int64_t TextWindows::n_scored() const {
  return n_scored(0) + (count_ > 1 ? (count_ - 1) * n_scored(1) : 0);
}

std::vector<int32_t> TextWindows::batch(int64_t first, int64_t n) const {
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(n * ctx_));
  for (int64_t index = first; index < first + n; ++index) {
    const auto tokens = window(index);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
  }
  return ids;
}

int64_t TextWindows::batch_size() const { return std::max<int64_t>(1, kBatchTokens / ctx_); }

}  // namespace d2q
