// Lines of stdin, which Ctrl-C can interrupt.
#pragma once

#include <string>

namespace d2q::cli {

class LineReader {
 public:
  enum class Status { kLine, kEnd, kInterrupted };
  /// The next line without its end. Interrupted only where handle_interrupts(true) is in force.
  /// Throws Error{kIo}, Error{kUnsupported} for a line beyond 16 MiB.
  Status read(std::string& line);

 private:
  std::string pending_;
  bool at_end_ = false;
};

}  // namespace d2q::cli
