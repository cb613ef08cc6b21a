// The project's own files as text, for the tests that read them.
#pragma once

#include <string>
#include <vector>

namespace d2q::test {

struct SourceFile {
  std::string path;  // relative to the source folder, with '/'
  std::string content;
};

/// C++ and CUDA files below `folder` of the source folder, sorted by path.
std::vector<SourceFile> source_files(const std::string& folder);

/// Any file, by its absolute path; "" when it is not there.
std::string read_whole(const std::string& path);

}  // namespace d2q::test
