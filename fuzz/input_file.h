// An input that a parser can open by path, without touching a disk.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace d2q::fuzz {

/// A file in memory with the given bytes, for as long as the object lives.
class InputFile {
 public:
  InputFile(const uint8_t* data, size_t n_bytes)
      : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    if (descriptor_ < 0) std::abort();
    while (n_bytes > 0) {
      const ssize_t written = ::write(descriptor_, data, n_bytes);
      if (written <= 0) std::abort();
      data += written;
      n_bytes -= static_cast<size_t>(written);
    }
  }
  ~InputFile() { ::close(descriptor_); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace d2q::fuzz
