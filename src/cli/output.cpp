#include "cli/output.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"

namespace d2q::cli {
namespace {

[[noreturn]] void stdout_failed() {
  fail(ErrorCode::kIo, "stdout: {}; the result is incomplete", std::strerror(errno));
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) stdout_failed();
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
  if (std::fflush(stdout) != 0) stdout_failed();
}

std::string read_text(const std::filesystem::path& path) {
  constexpr uint64_t kMaxTextBytes = 64'000'000'000;
  return read_file(path, kMaxTextBytes);
}

}  // namespace d2q::cli
