#include "base/hash.h"

#include <gtest/gtest.h>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

TEST(HashTest, GivesThePublishedHashOfNothing) {
  EXPECT_EQ(hash_hex(std::string_view()), "99aa06d3014798d86001c324468d497f");
}

TEST(HashTest, PiecesHashAsTheWhole) {
  const std::string text(10'000, 'q');
  Hasher hasher;
  for (size_t i = 0; i < text.size(); i += 777) {
    hasher.update(std::string_view(text).substr(i, 777));
  }
  EXPECT_EQ(hasher.hex(), hash_hex(text));
  EXPECT_EQ(hasher.hex().size(), 32u);
}

TEST(HashTest, AFileHashesAsItsContent) {
  const testing::TempFolder folder;
  EXPECT_EQ(hash_file_hex(folder.write("a", "content")), hash_hex("content"));
  EXPECT_EQ(hash_file_hex(folder.write("empty", "")), hash_hex(""));
  D2Q_EXPECT_ERROR(hash_file_hex(folder.path() / "none"), ErrorCode::kNotFound, "none");
}

}  // namespace
}  // namespace d2q
