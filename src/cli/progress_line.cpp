#include "cli/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "base/process_memory.h"
#include "cli/interrupt.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

class ProgressLine {
 public:
  explicit ProgressLine(bool terminal) : terminal_(terminal) {}
  ~ProgressLine() { end_line(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const ProgressEvent& event) {
    const auto now = std::chrono::steady_clock::now();
    if (event.stage != stage_) {
      end_line();
      stage_ = event.stage;
      start_ = now;
      // A resumed run starts in the middle; the time left comes from the steps seen since.
      first_done_ = event.done;
    }
    std::string text = fmt::format("{} {}/{}", event.stage, event.done, event.total);
    if (!event.detail.empty()) text += "  " + event.detail;
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    const int64_t steps = event.done - first_done_;
    if (event.done >= event.total) {
      text += fmt::format("  {} taken", format_duration(elapsed));
    } else if (steps > 0) {
      const double left =
          elapsed / static_cast<double>(steps) * static_cast<double>(event.total - event.done);
      text += fmt::format("  {} left", format_duration(left));
    }
    text += fmt::format("  {} resident", format_bytes(static_cast<double>(resident_bytes())));
    if (terminal_) {
      std::fprintf(stderr, "\r\033[K%s", text.c_str());
      open_ = true;
      if (event.done >= event.total) end_line();
    } else {
      std::fprintf(stderr, "%s\n", text.c_str());
    }
    std::fflush(stderr);
  }

 private:
  void end_line() {
    if (open_) std::fputc('\n', stderr);
    open_ = false;
  }

  bool terminal_;
  bool open_ = false;
  std::string stage_;
  std::chrono::steady_clock::time_point start_;
  int64_t first_done_ = 0;
};

}  // namespace

void show_note(std::optional<bool> wanted, const std::string& text) {
  if (wanted.value_or(isatty(STDERR_FILENO) == 1)) std::fprintf(stderr, "%s\n", text.c_str());
}

void warn(const std::string& text) { std::fprintf(stderr, "d2quant: WARNING: %s\n", text.c_str()); }

ProgressSink make_progress_sink(std::optional<bool> wanted) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  if (!wanted.value_or(terminal)) {
    return [](const ProgressEvent&) { throw_if_interrupted(); };
  }
  // Shared, since std::function copies its target.
  auto line = std::make_shared<ProgressLine>(terminal);
  return [line](const ProgressEvent& event) {
    line->show(event);
    throw_if_interrupted();
  };
}

}  // namespace d2q::cli
