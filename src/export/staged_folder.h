// A folder under construction that appears under its name only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>

namespace d2q {

class StagedFolder {
 public:
  /// Files go to path(), "<final name>.partial", which is removed without commit(). Throws
  /// Error{kInvalidArgument} when `final_path` exists and not `overwrite`, or holds anything but a
  /// model (no config.json) and is not empty.
  StagedFolder(std::filesystem::path final_path, bool overwrite);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const noexcept { return partial_; }
  /// Gives the folder its name and returns the bytes of its files.
  int64_t commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  bool committed_ = false;
};

}  // namespace d2q
