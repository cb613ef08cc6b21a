// Jinja templates, as far as chat templates use them: the text of a conversation in the form that
// a model was trained on. The environment is that of Hugging Face's transformers: trim_blocks,
// lstrip_blocks, loop controls, an immutable sandbox, JSON without ASCII escapes.
#pragma once

#include <ctime>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "text/jinja/budget.h"

namespace d2q::jinja {

inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

struct RenderOptions {
  RenderLimits limits = {};
  std::optional<std::tm> now = {};  // of strftime_now; absent: the local time
};

/// Immutable and thread-safe.
class Template {
 public:
  /// `name` stands before every error. Throws Error{kCorrupt} for a source that does not parse,
  /// Error{kUnsupported} for tags outside the subset.
  Template(std::string_view source, std::string name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  /// The text for the variables of `context`, a JSON object. Throws Error{kInvalidArgument} for
  /// what the template refuses (raise_exception) or cannot compute, Error{kUnsupported} for what it
  /// uses outside the subset and beyond the limits; the message has the template's line.
  std::string render(const nlohmann::ordered_json& context,
                     const RenderOptions& options = {}) const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace d2q::jinja
