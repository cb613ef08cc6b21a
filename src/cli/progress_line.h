// Progress on stderr: one line that rewrites itself on a terminal, one line a report elsewhere.
#pragma once

#include <optional>
#include <string>

#include "base/progress.h"

namespace d2q::cli {

/// A sink that shows step, share done, time left, resident memory and the report's detail, and that
/// throws Error{kInterrupted} after Ctrl-C. `wanted`: absent = only when stderr is a terminal.
ProgressSink make_progress_sink(std::optional<bool> wanted);

/// A line on stderr under the same condition.
void show_note(std::optional<bool> wanted, const std::string& text);

/// A line on stderr that no option silences.
void warn(const std::string& text);

}  // namespace d2q::cli
