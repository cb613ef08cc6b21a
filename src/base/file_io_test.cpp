#include "base/file_io.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <iterator>
#include <string>
#include <thread>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

using testing::TempFolder;

int64_t n_entries(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder),
                       std::filesystem::directory_iterator());
}

/// Makes writes beyond `n_bytes` of a file fail, as a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t n_bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = n_bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_ = {};
};

TEST(FileIoTest, ReadsWhatWasWritten) {
  const TempFolder folder;
  std::string content(200'000, 'x');
  content[100'000] = '\0';
  write_file_atomically(folder.path() / "a", content);
  EXPECT_EQ(read_file(folder.path() / "a", content.size()), content);
}

TEST(FileIoTest, RefusesAFileAboveTheLimit) {
  const TempFolder folder;
  const auto path = folder.write("a", "12345");
  EXPECT_EQ(read_file(path, 5), "12345");
  D2Q_EXPECT_ERROR(read_file(path, 4), ErrorCode::kCorrupt, path.string());
}

TEST(FileIoTest, WaitsForTheWriterOfAPipe) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe(ends), 0);
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(::write(ends[1], "late", 4), 4);
    ::close(ends[1]);
  });
  EXPECT_EQ(read_file("/proc/self/fd/" + std::to_string(ends[0]), 10), "late");
  writer.join();
  ::close(ends[0]);
}

TEST(FileIoTest, NamesAMissingFileAndAFolder) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(read_file(folder.path() / "none", 10), ErrorCode::kNotFound, "none");
  D2Q_EXPECT_ERROR(read_file(folder.path(), 10), ErrorCode::kNotFound, "folder");
}

TEST(FileIoTest, AnAtomicWriteReplacesTheOldContentAndLeavesNoOtherFile) {
  const TempFolder folder;
  const auto path = folder.write("a", "old");
  write_file_atomically(path, "new");
  EXPECT_EQ(read_file(path, 100), "new");
  EXPECT_EQ(n_entries(folder.path()), 1);
}

TEST(FileIoTest, AnUnfinishedFileLeavesTheOldContent) {
  const TempFolder folder;
  const auto path = folder.write("a", "old");
  {
    AtomicFile file(path);
    file.write("new");
    EXPECT_EQ(file.size(), 3u);
  }
  EXPECT_EQ(read_file(path, 100), "old");
  EXPECT_EQ(n_entries(folder.path()), 1);
}

TEST(FileIoTest, AFullDiskIsAnErrorThatNamesTheFileAndLeavesNothing) {
  const TempFolder folder;
  const auto path = folder.path() / "big";
  {
    const FileSizeLimit limit(1 << 16);
    D2Q_EXPECT_ERROR(write_file_atomically(path, std::string(1 << 17, 'x')), ErrorCode::kIo,
                     path.string());
  }
  EXPECT_EQ(n_entries(folder.path()), 0);
}

TEST(FileIoTest, AMissingFolderIsNamed) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(write_file_atomically(folder.path() / "none" / "a", "x"), ErrorCode::kIo,
                   "none");
}

TEST(FileIoTest, AFileThatCannotTakeItsNameLeavesNoTemporary) {
  const TempFolder folder;
  std::filesystem::create_directory(folder.path() / "a");  // rename onto a folder fails
  D2Q_EXPECT_ERROR(write_file_atomically(folder.path() / "a", "x"), ErrorCode::kIo, "a");
  EXPECT_EQ(n_entries(folder.path()), 1);
}

TEST(FileIoTest, ASymbolicLinkStaysOneAndItsTargetIsWritten) {
  const TempFolder folder;
  const auto target = folder.write("target", "old");
  const auto link = folder.path() / "link";
  std::filesystem::create_symlink("target", link);
  write_file_atomically(link, "new");
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(read_file(target, 100), "new");
  std::filesystem::remove(target);
  write_file_atomically(link, "again");
  EXPECT_EQ(read_file(target, 100), "again");
  EXPECT_EQ(n_entries(folder.path()), 2);
}

TEST(FileIoTest, APipeIsWrittenToAndNotReplaced) {
  const TempFolder folder;
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string found;
  std::thread reader([&] { found = read_file(pipe, 100); });
  write_file_atomically(pipe, "result");
  reader.join();
  EXPECT_EQ(found, "result");
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  check_writable(pipe);  // does not wait for a reader
  EXPECT_EQ(n_entries(folder.path()), 1);
}

TEST(FileIoTest, AskingWhetherAFileCanBeWrittenLeavesNothing) {
  const TempFolder folder;
  const auto path = folder.write("a", "old");
  check_writable(path);
  check_writable(folder.path() / "new");
  EXPECT_EQ(read_file(path, 100), "old");
  EXPECT_EQ(n_entries(folder.path()), 1);
  D2Q_EXPECT_ERROR(check_writable(folder.path() / "none" / "a"), ErrorCode::kIo, "none");
}

TEST(FileIoTest, OnlyTemporaryFilesOfKilledRunsAreRemoved) {
  const TempFolder folder;
  folder.write("a.safetensors.tmp.123", "cut");
  folder.write("a.tmp.x", "kept");
  folder.write("a", "kept");
  remove_temporaries(folder.path());
  EXPECT_EQ(n_entries(folder.path()), 2);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "a.safetensors.tmp.123"));
}

TEST(FileIoTest, WritingAfterFinishIsOurBug) {
  const TempFolder folder;
  AtomicFile file(folder.path() / "a");
  file.finish();
  EXPECT_THROW(file.write("x"), InternalError);
  EXPECT_THROW(file.finish(), InternalError);
}

}  // namespace
}  // namespace d2q
