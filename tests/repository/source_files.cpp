#include "repository/source_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace d2q::test {

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), {});
}

std::vector<SourceFile> source_files(const std::string& folder) {
  const std::filesystem::path root = D2Q_SOURCE_DIR;
  std::vector<SourceFile> files;
  if (!std::filesystem::exists(root / folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
    const auto extension = entry.path().extension();
    const bool source =
        extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh";
    if (!entry.is_regular_file() || !source) continue;
    files.push_back({entry.path().lexically_relative(root).generic_string(),
                     read_whole(entry.path().string())});
  }
  std::ranges::sort(files, {}, &SourceFile::path);
  return files;
}

}  // namespace d2q::test
