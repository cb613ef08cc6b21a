#include "export/staged_folder.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"

namespace d2q {

namespace fs = std::filesystem;

namespace {

/// A model as this program writes one, or nothing: whatever has folders in it, be it only .git, is
/// more than that.
bool is_replaceable(const fs::path& path) {
  if (!fs::is_directory(path)) return false;
  if (fs::is_empty(path)) return true;
  const auto is_folder = [](const fs::directory_entry& entry) { return entry.is_directory(); };
  return fs::exists(path / "config.json") &&
         std::none_of(fs::directory_iterator(path), fs::directory_iterator(), is_folder);
}

}  // namespace

void check_is_not_the_model(const fs::path& output, const fs::path& model) {
  std::error_code error;
  const fs::path target =
      fs::canonical(output.has_filename() ? output : output.parent_path(), error);
  if (error) return;  // nothing there yet
  const fs::path source = fs::canonical(model);
  const auto [in_target, in_source] =
      std::mismatch(target.begin(), target.end(), source.begin(), source.end());
  if (in_target == target.end()) {
    fail(ErrorCode::kInvalidArgument, "{}: {} the model that is exported; choose another --output",
         output.string(), in_source == source.end() ? "is" : "holds");
  }
}

StagedFolder::StagedFolder(fs::path final_path, bool overwrite)
    // "out/" names the same folder as "out"; the unfinished one lies beside it, not inside.
    : path_(final_path.has_filename() ? std::move(final_path) : final_path.parent_path()),
      partial_(path_) {
  partial_ += ".partial";
  if (fs::exists(path_) && !overwrite) {
    fail(ErrorCode::kInvalidArgument,
         "{}: exists already; choose another --output or pass --overwrite", path_.string());
  }
  if (fs::exists(path_) && !is_replaceable(path_)) {
    fail(ErrorCode::kInvalidArgument,
         "{}: is not a model folder, and --overwrite replaces no other; choose another --output",
         path_.string());
  }
  if (fs::exists(partial_) && !overwrite) {
    fail(ErrorCode::kInvalidArgument,
         "{}: holds an unfinished run; finish or remove it, choose another --output, or pass "
         "--overwrite",
         partial_.string());
  }
  std::error_code error;
  fs::remove_all(partial_, error);
  fs::create_directories(partial_, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be created: {}", partial_.string(), error.message());
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
}

int64_t StagedFolder::commit() {
  std::error_code error;
  if (fs::exists(path_)) fs::remove_all(path_, error);
  if (!error) fs::rename(partial_, path_, error);
  if (error)
    fail(ErrorCode::kIo, "{}: cannot be given its final name: {}", path_.string(), error.message());
  committed_ = true;
  const fs::path parent = path_.parent_path();
  sync_directory(parent.empty() ? fs::path(".") : parent);
  int64_t total = 0;
  for (const auto& entry : fs::directory_iterator(path_)) {
    if (entry.is_regular_file()) total += static_cast<int64_t>(entry.file_size());
  }
  return total;
}

}  // namespace d2q
