#include "text/tokenizer.h"
#include "text/utf8.h"

namespace d2q {

std::string Utf8Stream::push(std::string_view bytes) {
  pending_.append(bytes);
  std::string out;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Step step = next_utf8(pending_, at);
    if (step.status == Utf8Status::kIncomplete) break;
    append_utf8(out, step.code_point);
    at += step.length;
  }
  pending_.erase(0, at);
  return out;
}

std::string Utf8Stream::finish() {
  std::string out = replace_malformed_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace d2q
