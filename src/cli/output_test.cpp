#include "cli/output.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/testing/temp_folder.h"

namespace d2q::cli {
namespace {

using d2q::testing::TempFolder;

/// What `work` writes to file descriptors 1 and 2, from a process of its own.
template <typename Work>
std::array<std::string, 2> outputs_of(Work work) {
  const TempFolder folder;
  const std::array<std::filesystem::path, 2> paths = {folder.write("1", ""), folder.write("2", "")};
  const pid_t child = ::fork();
  if (child == 0) {
    for (size_t i = 0; i < paths.size(); ++i)
      std::freopen(paths[i].c_str(), "w", i == 0 ? stdout : stderr);
    work();
    std::fflush(stdout);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
  return {read_file(paths[0], 1000), read_file(paths[1], 1000)};
}

TEST(Output, WhatLibrariesPrintIsKeptOutOfTheResult) {
  const auto [out, err] = outputs_of([] {
    keep_stdout_for_results();
    std::printf("a library's note\n");
    print_json({{"path", "\xff"}});
    finish_output();
  });
  EXPECT_EQ(out, "{\n  \"path\": \"\xEF\xBF\xBD\"\n}\n");
  EXPECT_EQ(err, "a library's note\n");
}

TEST(Output, AClosedStderrLeavesStdoutAsItIs) {
  const auto [out, err] = outputs_of([] {
    ::close(STDERR_FILENO);
    keep_stdout_for_results();
    print("result");
    finish_output();
  });
  EXPECT_EQ(out, "result");
}

}  // namespace
}  // namespace d2q::cli
