// Where long work reports to. The library never prints: cli/ passes a sink that draws on stderr.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace d2q {

/// One report: `done` of `total` steps of `stage`, with a short free text.
struct ProgressEvent {
  std::string stage;   // e.g. "quantize", "perplexity"
  int64_t done = 0;    // steps finished
  int64_t total = 0;   // steps in all
  std::string detail;  // e.g. "block 3/30 down_proj error 0.031"
};

/// Called from the thread that runs the work. May throw Error{kInterrupted} to stop it.
using ProgressSink = std::function<void(const ProgressEvent&)>;

}  // namespace d2q
