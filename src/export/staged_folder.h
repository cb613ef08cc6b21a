// A folder under construction that appears under its name only when it is complete.
#pragma once

#include <cstdint>
#include <filesystem>

namespace d2q {

/// Throws Error{kInvalidArgument} when writing `output` would replace `model`, which is read
/// meanwhile and may be all that there is of it.
void check_is_not_the_model(const std::filesystem::path& output,
                            const std::filesystem::path& model);

class StagedFolder {
 public:
  /// Files go to path(), "<final name>.partial", which is removed without commit(). Throws
  /// Error{kInvalidArgument} when it or `final_path` exists and not `overwrite`, or when
  /// `final_path` holds anything but a model (no config.json, or folders) and is not empty.
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
