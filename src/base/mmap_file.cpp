#include "base/mmap_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace d2q {

MmapFile::MmapFile(const std::filesystem::path& path) : path_(path) {
  // O_NONBLOCK: opening a pipe by mistake must not hang; it has no effect on regular files.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) {
    const int reason = errno;
    if (reason == ENOENT || reason == ENOTDIR) {
      fail(ErrorCode::kNotFound, "{}: no such file", path.string());
    }
    fail(ErrorCode::kIo, "{}: cannot be opened: {}", path.string(), std::strerror(reason));
  }
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0) {
    const int reason = errno;
    ::close(descriptor);
    fail(ErrorCode::kIo, "{}: cannot be examined: {}", path.string(), std::strerror(reason));
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    fail(ErrorCode::kNotFound, "{}: not a regular file", path.string());
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ != 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const int reason = errno;
      ::close(descriptor);
      fail(ErrorCode::kIo, "{}: {} bytes cannot be mapped: {}", path.string(), size_,
           std::strerror(reason));
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);  // the mapping keeps the file alive
}

MmapFile::~MmapFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MmapFile::MmapFile(MmapFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MmapFile& MmapFile::operator=(MmapFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace d2q
