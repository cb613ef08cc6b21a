// Normalizers: what is done to the text before it is cut into words.
#pragma once

#include <memory>
#include <string>

#include "text/json_view.h"

namespace d2q {

/// Immutable and thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Rewrites valid UTF-8 into valid UTF-8.
  virtual void apply(std::string& text) const = 0;
};

/// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip and Sequence of them. Throws
/// Error{kUnsupported} naming any other type.
std::unique_ptr<Normalizer> make_normalizer(const JsonView& json);

}  // namespace d2q
