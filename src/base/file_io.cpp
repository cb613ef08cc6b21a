#include "base/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace d2q {
namespace {

/// Closes on scope exit.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

[[noreturn]] void fail_io(const std::filesystem::path& path, const char* action, int reason) {
  fail(ErrorCode::kIo, "{}: cannot be {}: {}", path.string(), action, std::strerror(reason));
}

void write_all(int descriptor, const char* data, size_t n_bytes,
               const std::filesystem::path& path) {
  while (n_bytes > 0) {
    const ssize_t written = ::write(descriptor, data, n_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_io(path, "written", errno);
    }
    data += written;
    n_bytes -= static_cast<size_t>(written);
  }
}

constexpr std::string_view kTemporaryMarker = ".tmp.";

/// Where a symbolic link leads, even when nothing is there yet; other paths as they are.
std::filesystem::path followed(std::filesystem::path path) {
  constexpr int kMostLinks = 40;  // as many as Linux follows
  std::error_code error;
  for (int links = 0; links < kMostLinks && std::filesystem::is_symlink(path, error); ++links) {
    const std::filesystem::path target = std::filesystem::read_symlink(path, error);
    if (error) break;
    path = path.parent_path() / target;  // an absolute target stands alone
  }
  return path;
}

/// A device, pipe or socket: there is nothing to replace, only something to write to.
bool is_special(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
         !std::filesystem::is_directory(status);
}

}  // namespace

std::string read_file(const std::filesystem::path& path, uint64_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) {
      fail(ErrorCode::kNotFound, "{}: no such file", path.string());
    }
    fail_io(path, "opened", errno);
  }
  // Opening a pipe that nobody writes to must not hang, but reading one waits for its writer.
  if (::fcntl(file.get(), F_SETFL, O_RDONLY) != 0) fail_io(path, "opened", errno);
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0) fail_io(path, "examined", errno);
  if (S_ISDIR(status.st_mode)) {
    fail(ErrorCode::kNotFound, "{}: a folder, expected a file", path.string());
  }
  // The size of a pipe or of a file under /proc is 0, so the limit is held while reading as well.
  std::string content;
  content.reserve(std::min<uint64_t>(static_cast<uint64_t>(status.st_size) + 1, max_bytes + 1));
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n_read = ::read(file.get(), buffer, sizeof(buffer));
    if (n_read < 0) {
      if (errno == EINTR) continue;
      fail_io(path, "read", errno);
    }
    if (n_read == 0) return content;
    if (content.size() + static_cast<uint64_t>(n_read) > max_bytes) {
      fail(ErrorCode::kCorrupt, "{}: larger than the {} bytes that such a file may have",
           path.string(), max_bytes);
    }
    content.append(buffer, static_cast<size_t>(n_read));
  }
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.finish();
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path name = directory.empty() ? "." : directory;
  const Descriptor folder(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) fail_io(name, "opened", errno);
  // Some network and overlay file systems cannot sync a folder; the files themselves are safe
  // there.
  if (::fsync(folder.get()) != 0 && errno != EINVAL && errno != ENOTSUP) {
    fail_io(name, "made durable", errno);
  }
}

void check_writable(const std::filesystem::path& path) {
  // A reader of a pipe would take the probe's end for the end of what it waits for.
  if (!is_special(path)) AtomicFile probe(path);
}

void remove_temporaries(const std::filesystem::path& directory) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    const size_t marker = name.rfind(kTemporaryMarker);
    const bool numbered =
        marker != std::string::npos &&
        name.find_first_not_of("0123456789", marker + kTemporaryMarker.size()) == std::string::npos;
    std::error_code ignored;
    if (numbered) std::filesystem::remove(entry.path(), ignored);
  }
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // Asked of the path as it is: the system follows /dev/stdout to where its link's text does not
  // lead.
  const bool special = is_special(path_);
  if (!special) path_ = followed(path_);
  if (special) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    // The process id keeps two runs that write the same file from mixing their bytes.
    temporary_ = path_;
    temporary_ += std::string(kTemporaryMarker) + std::to_string(::getpid());
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  }
  if (descriptor_ < 0) fail_io(path_, "created", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  D2Q_CHECK(descriptor_ >= 0, "{}: write after finish", path_.string());
  write_all(descriptor_, reinterpret_cast<const char*>(bytes.data()), bytes.size(), path_);
  size_ += bytes.size();
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::finish() {
  D2Q_CHECK(descriptor_ >= 0, "{}: finished twice", path_.string());
  if (temporary_.empty()) {
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_io(path_, "written", errno);
    return;
  }
  if (::fsync(descriptor_) != 0) fail_io(path_, "written", errno);
  // Some file systems report a full disk only at close.
  const int closed = ::close(std::exchange(descriptor_, -1));
  if (closed != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    fail_io(path_, "written", reason);
  }
  sync_directory(path_.parent_path());
}

}  // namespace d2q
