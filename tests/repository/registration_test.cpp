// Every test on disk runs, and none depends on the machine that it was written on.
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>

#include "repository/source_files.h"

namespace d2q::test {
namespace {

std::vector<SourceFile> test_files() {
  std::vector<SourceFile> files;
  for (const char* folder : {"src", "tests", "bench", "fuzz", "tools", "examples"}) {
    for (auto& file : source_files(folder)) {
      const bool below_tests = file.path.starts_with("tests/");
      if (below_tests || file.path.ends_with("_test.cpp")) files.push_back(std::move(file));
    }
  }
  return files;
}

TEST(Registration, EveryTestFileIsBuiltIntoAProgramThatCtestRuns) {
  const std::string commands = read_whole(D2Q_BINARY_DIR "/compile_commands.json");
  ASSERT_NE(commands, "") << "no compile_commands.json in the build folder";
  // One "program" a line: written by CMake for each program given to gtest_discover_tests.
  const std::string registered = read_whole(D2Q_BINARY_DIR "/registered_tests.txt");
  const bool has_cuda = commands.find("/cuda/cuda_context.cpp") != std::string::npos;
  size_t n_files = 0;
  for (const auto& file : test_files()) {
    if (!file.path.ends_with("_test.cpp") || file.path.starts_with("tests/install/")) continue;
    if (!has_cuda && file.path.find("/cuda/with_cuda_") != std::string::npos) continue;
    ++n_files;
    // The object's path holds the program's name:
    // ".../CMakeFiles/d2q_base_test.dir/src/base/x_test.cpp.o".
    const std::string name = file.path.substr(file.path.rfind('/') + 1);
    const std::regex object("CMakeFiles/([A-Za-z0-9_]+)\\.dir/[^ ]*" + name + "\\.o -c [^ ]*" +
                            file.path);
    std::smatch match;
    ASSERT_TRUE(std::regex_search(commands, match, object)) << file.path << " is not built";
    EXPECT_NE(registered.find(match[1].str() + "\n"), std::string::npos)
        << file.path << ": ctest does not run " << match[1];
  }
  EXPECT_GT(n_files, 20u);
}

TEST(Registration, NoTestNamesAFolderOfOneMachine) {
  const std::regex absolute("\"/(home|root|work|tmp|mnt|Users|data|opt)/");
  for (const auto& file : test_files()) {
    if (file.path.ends_with("registration_test.cpp")) continue;  // the pattern above
    EXPECT_FALSE(std::regex_search(file.content, absolute)) << file.path;
  }
}

TEST(SourceFiles, StayShort) {
  for (const char* folder : {"src", "include", "tests"}) {
    for (const auto& file : source_files(folder)) {
      const auto n_lines = std::ranges::count(file.content, '\n');
      EXPECT_LE(n_lines, 500) << file.path;
    }
  }
}

}  // namespace
}  // namespace d2q::test
