#include "base/hash.h"

#include <gtest/gtest.h>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

TEST(HashTest, GivesThePublishedHashOfNothing) {
  EXPECT_EQ(hash_hex({}), "99aa06d3014798d86001c324468d497f");
}

TEST(HashTest, PiecesHashAsTheWhole) {
  const std::string text(10'000, 'q');
  Hasher hasher;
  for (size_t i = 0; i < text.size(); i += 777) {
    hasher.update(std::string_view(text).substr(i, 777));
  }
  EXPECT_EQ(hasher.hex(), hash_hex(std::as_bytes(std::span(text))));
  EXPECT_EQ(hasher.hex().size(), 32u);
}

TEST(HashTest, ASmallFilesSampledHashSeesEveryByte) {
  const testing::TempFolder folder;
  const std::string content(1000, 'q');
  const std::string hash = sampled_file_hash_hex(folder.write("a", content));
  EXPECT_EQ(sampled_file_hash_hex(folder.write("same", content)), hash);
  for (const size_t place : {0u, 500u, 999u}) {
    std::string other = content;
    other[place] = 'r';
    EXPECT_NE(sampled_file_hash_hex(folder.write("b", other)), hash) << place;
  }
  EXPECT_NE(sampled_file_hash_hex(folder.write("b", content + "q")), hash);
  EXPECT_EQ(sampled_file_hash_hex(folder.write("empty", "")).size(), 32u);
  D2Q_EXPECT_ERROR(sampled_file_hash_hex(folder.path() / "none"), ErrorCode::kNotFound, "none");
}

TEST(HashTest, ALargeFilesSampledHashSeesItsEndsItsSizeAndChangesAllOver) {
  const testing::TempFolder folder;
  const std::string content(2 * kWholeHashBytes + 77, 'q');
  const std::string hash = sampled_file_hash_hex(folder.write("a", content));
  EXPECT_EQ(sampled_file_hash_hex(folder.write("same", content)), hash);
  EXPECT_NE(sampled_file_hash_hex(folder.write("b", content + "q")), hash);
  for (const size_t place : {size_t{0}, content.size() - 1}) {
    std::string other = content;
    other[place] = 'r';
    EXPECT_NE(sampled_file_hash_hex(folder.write("b", other)), hash) << place;
  }
  // 6 MiB between the ends, a piece every 96 KiB: a changed stretch of 96 KiB touches one.
  for (const size_t place : {size_t{1} << 20, content.size() / 2}) {
    std::string other = content;
    other.replace(place, 96 << 10, 96 << 10, 'r');
    EXPECT_NE(sampled_file_hash_hex(folder.write("b", other)), hash) << place;
  }
}

}  // namespace
}  // namespace d2q
