#include "cli/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"

namespace d2q::cli {
namespace {

std::FILE* results = stdout;

[[noreturn]] void stdout_failed() {
  fail(ErrorCode::kIo, "stdout: {}; the result is incomplete", std::strerror(errno));
}

}  // namespace

void keep_stdout_for_results() {
  // Where one of them is closed there is nothing to keep apart.
  const int copy = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (copy < 0) return;
  std::FILE* file = ::fdopen(copy, "w");
  if (file == nullptr || ::dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
    file == nullptr ? ::close(copy) : std::fclose(file);
    return;
  }
  results = file;
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), results) != text.size()) stdout_failed();
}

void print_line(std::string_view text) {
  print(text);
  print("\n");
}

std::string json_text(const nlohmann::json& value) {
  // Replacement, since paths and prompts may hold malformed UTF-8.
  return value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void print_json(const nlohmann::json& value) { print(json_text(value)); }

void finish_output() {
  if (std::fflush(results) != 0) stdout_failed();
}

std::string read_text(const std::filesystem::path& path) {
  constexpr uint64_t kMaxTextBytes = 64'000'000'000;
  return read_file(path, kMaxTextBytes);
}

}  // namespace d2q::cli
