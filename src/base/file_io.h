// Whole-file reads with a size limit, and writes that appear under their name only when complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace d2q {

/// The file's bytes. Throws Error{kNotFound}, Error{kIo}, or Error{kCorrupt} when the file is
/// larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, uint64_t max_bytes);

/// Writes `content` so that `path` holds either the old bytes or all of the new ones, even after a
/// crash; a symbolic link stays one, and a device or pipe is written to. Throws Error{kIo} naming
/// `path` and the reason (disk full, permission).
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Throws what write_file_atomically() would throw because of `path`'s folder: to ask before hours
/// of work.
void check_writable(const std::filesystem::path& path);

/// Removes what killed runs have left of their AtomicFiles in `directory`, which no other run may
/// be writing to.
void remove_temporaries(const std::filesystem::path& directory);

/// Makes renames inside `directory` survive a crash. Throws Error{kIo}.
void sync_directory(const std::filesystem::path& directory);

/// A file under construction: bytes go to "<path>.tmp.<pid>" beside it, finish() gives it its name.
/// Without finish() the temporary file is removed. Where `path` is a symbolic link, the file that
/// it leads to is meant; bytes for a device or a pipe go straight there. Errors are Error{kIo}
/// naming `path`.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// fsync, rename to the final name, fsync of the folder. Call once; nothing may be written after.
  void finish();
  uint64_t size() const noexcept { return size_; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty where path_ is a device or a pipe
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace d2q
