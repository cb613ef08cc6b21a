// Progress on stderr: one line that rewrites itself on a terminal, one line a report elsewhere.
#pragma once

#include <optional>

#include "base/progress.h"

namespace d2q::cli {

/// A sink that shows step, share done, time left, resident memory and the report's detail, and that
/// throws Error{kInterrupted} after Ctrl-C. `wanted`: absent = only when stderr is a terminal.
ProgressSink make_progress_sink(std::optional<bool> wanted);

}  // namespace d2q::cli
