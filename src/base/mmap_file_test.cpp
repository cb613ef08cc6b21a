#include "base/mmap_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string_view>
#include <utility>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

using testing::TempFolder;

std::string_view text_of(const MmapFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MmapFileTest, ShowsTheBytesOfTheFile) {
  const TempFolder folder;
  const MmapFile file(folder.write("a", "hello"));
  EXPECT_EQ(text_of(file), "hello");
  EXPECT_EQ(file.path().filename(), "a");
}

TEST(MmapFileTest, AnEmptyFileHasNoBytes) {
  const TempFolder folder;
  EXPECT_TRUE(MmapFile(folder.write("a", "")).bytes().empty());
}

TEST(MmapFileTest, AMoveKeepsTheMapping) {
  const TempFolder folder;
  MmapFile first(folder.write("a", "hello"));
  MmapFile second(std::move(first));
  EXPECT_EQ(text_of(second), "hello");
  second = MmapFile(folder.write("b", "other"));
  EXPECT_EQ(text_of(second), "other");
}

TEST(MmapFileTest, RefusesWhatIsNoRegularFile) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(MmapFile(folder.path() / "none"), ErrorCode::kNotFound, "no such file");
  D2Q_EXPECT_ERROR(MmapFile(folder.path()), ErrorCode::kNotFound, "not a regular file");
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  D2Q_EXPECT_ERROR(MmapFile{pipe}, ErrorCode::kNotFound, "not a regular file");
}

}  // namespace
}  // namespace d2q
