// Ends a streamed text at the first of some stop texts, which may arrive in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace d2q {

/// Holds back a tail that may be the beginning of a stop text, so that no part of one is ever
/// shown.
class StopFilter {
 public:
  /// Empty stop texts are ignored.
  explicit StopFilter(std::vector<std::string> stop_texts);

  /// The text that may be shown now. After a stop text has been seen, nothing more.
  std::string push(std::string_view text);
  /// What was held back, at the end of the stream.
  std::string finish();
  bool stopped() const noexcept { return stopped_; }

 private:
  std::vector<std::string> stop_texts_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace d2q
