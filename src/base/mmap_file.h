// A file mapped read-only: model files are larger than memory should be, and the system pages them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace d2q {

/// Movable, not copyable. The bytes stay valid while the object (or what it was moved to) lives.
/// A file that another program cuts short while it is mapped raises SIGBUS on access; nothing in
/// user space can check for that beforehand.
class MmapFile {
 public:
  /// Throws Error{kNotFound} when there is no such regular file, Error{kIo} when it cannot be read.
  explicit MmapFile(const std::filesystem::path& path);
  ~MmapFile();
  MmapFile(MmapFile&& other) noexcept;
  MmapFile& operator=(MmapFile&& other) noexcept;

  /// Page-aligned; empty for an empty file.
  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace d2q
