// Runs a program and keeps what it said.
#pragma once

#include <string>
#include <vector>

namespace d2q::test {

struct ProcessResult {
  int exit_code = 0;  // 128 + signal when it was killed
  std::string out;
  std::string err;
};

/// Runs `arguments` (the program first) with `input` as its stdin. `stdout_path` replaces the
/// capture of stdout when it is not empty.
ProcessResult run_process(const std::vector<std::string>& arguments,
                          const std::string& stdout_path = "", const std::string& input = "");

/// The d2quant program of this build with `arguments`.
ProcessResult run_d2quant(std::vector<std::string> arguments, const std::string& stdout_path = "",
                          const std::string& input = "");

}  // namespace d2q::test
