#include "cli/line_reader.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "cli/interrupt.h"

namespace d2q::cli {

LineReader::Status LineReader::read(std::string& line) {
  constexpr size_t kMaxLineBytes = size_t{16} << 20;
  size_t searched = 0;
  while (true) {
    const size_t end = pending_.find('\n', searched);
    if (end != std::string::npos) {
      line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      return Status::kLine;
    }
    if (at_end_) {
      line = std::exchange(pending_, {});
      return line.empty() ? Status::kEnd : Status::kLine;
    }
    searched = pending_.size();
    if (searched > kMaxLineBytes) {
      fail(ErrorCode::kUnsupported, "stdin: a line of more than {} bytes", kMaxLineBytes);
    }
    std::array<char, 4096> buffer{};
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n > 0) {
      pending_.append(buffer.data(), static_cast<size_t>(n));
    } else if (n == 0) {
      at_end_ = true;
    } else if (errno != EINTR) {
      fail(ErrorCode::kIo, "stdin: {}", std::strerror(errno));
    }
    if (interrupted()) {
      pending_.clear();
      return Status::kInterrupted;
    }
  }
}

}  // namespace d2q::cli
