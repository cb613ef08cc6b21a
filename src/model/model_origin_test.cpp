#include "model/model_origin.h"

#include <gtest/gtest.h>

#include <fstream>

namespace d2q {
namespace {

namespace fs = std::filesystem;

TEST(ModelOrigin, a_folder_tells_by_its_card_and_its_license_files) {
  const fs::path folder = fs::path(testing::TempDir()) / "model_origin";
  fs::remove_all(folder);
  fs::create_directories(folder);
  const auto write = [&](const char* name, const char* content) {
    std::ofstream(folder / name) << content;
  };
  write("config.json", "{}");
  EXPECT_EQ(read_model_origin(folder).name, "model_origin");
  EXPECT_FALSE(read_model_origin(folder).license);
  write("config.json", R"({"_name_or_path": "org/base"})");
  write("README.md", "---\nlanguage: en\nlicense: \"apache-2.0\"\n---\nlicense: other\n");
  write("LICENSE.txt", "text");
  write("licence", "text");
  write("weights.bin", "");
  const ModelOrigin origin = read_model_origin(folder);
  EXPECT_EQ(origin.name, "org/base");
  EXPECT_EQ(origin.license, "apache-2.0");
  ASSERT_EQ(origin.license_files.size(), 2u);
  EXPECT_EQ(origin.license_files[0].filename(), "LICENSE.txt");
  write("README.md", "license: not in a heading\n");
  EXPECT_FALSE(read_model_origin(folder).license);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace d2q
