#include "format/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

using testing::TempFolder;

std::string file_bytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header).append(data);
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string text_of(const SafetensorsTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

TEST(SafetensorsTest, ReadsTensorsAndMetadata) {
  const TempFolder folder;
  const SafetensorsFile file(
      folder.write("a.safetensors", file_bytes(R"({"__metadata__":{"format":"pt"},
                     "b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},
                     "a":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})",
                                               "01234567")));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");  // by position, not by name
  const SafetensorsTensor* b = file.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->type, SafetensorsType::kF16);
  EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(text_of(*b), "4567");
  EXPECT_EQ(file.find("a")->n_elements(), 1);
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsTest, GapsAndEmptyTensorsAreAllowed) {
  const TempFolder folder;
  const SafetensorsFile file(folder.write(
      "a.safetensors", file_bytes(R"({"e":{"dtype":"F32","shape":[0,4],"data_offsets":[4,4]},
                     "o":{"dtype":"U8","shape":[2305843009213693952,4,0],"data_offsets":[0,0]},
                     "a":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})",
                                  "01234567")));
  EXPECT_EQ(file.find("e")->n_elements(), 0);
  EXPECT_EQ(file.find("o")->n_elements(), 0);
  EXPECT_EQ(text_of(*file.find("a")), "45");
}

// One lie a header; the data has 8 bytes.
struct Lie {
  const char* name;
  std::string header;
  ErrorCode code;
  const char* text;
};
void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }

std::string one_tensor(std::string_view fields) { return R"({"t":{)" + std::string(fields) + "}}"; }

const std::vector<Lie> kLies = {
    {"NotJson", "{", ErrorCode::kCorrupt, "not a JSON object"},
    {"NotAnObject", "[1]", ErrorCode::kCorrupt, "not a JSON object"},
    {"TextAfterTheObject", "{}x", ErrorCode::kCorrupt, "not a JSON object"},
    {"DeepNesting", R"({"t":{"shape":)" + std::string(100'000, '['), ErrorCode::kCorrupt, "nested"},
    {"TensorIsNoObject", R"({"t":1})", ErrorCode::kCorrupt, "'t'"},
    {"NoDtype", one_tensor(R"("shape":[1],"data_offsets":[0,1])"), ErrorCode::kCorrupt, "dtype"},
    {"UnknownDtype", one_tensor(R"("dtype":"F4","shape":[1],"data_offsets":[0,1])"),
     ErrorCode::kUnsupported, "F4"},
    {"NoShape", one_tensor(R"("dtype":"U8","data_offsets":[0,1])"), ErrorCode::kCorrupt, "shape"},
    {"NegativeLength", one_tensor(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"),
     ErrorCode::kCorrupt, "whole number"},
    {"FractionalLength", one_tensor(R"("dtype":"U8","shape":[1.5],"data_offsets":[0,1])"),
     ErrorCode::kCorrupt, "whole number"},
    {"LengthBeyondSigned",
     one_tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1])"),
     ErrorCode::kCorrupt, "whole number"},
    {"NineDimensions",
     one_tensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"),
     ErrorCode::kCorrupt, "at most 8"},
    {"ShapeThatOverflows",
     one_tensor(R"("dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
     ErrorCode::kCorrupt, "overflows"},
    {"ShapeLargerThanBytes", one_tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"),
     ErrorCode::kCorrupt, "needs 8"},
    {"ShapeSmallerThanBytes", one_tensor(R"("dtype":"F16","shape":[1],"data_offsets":[0,8])"),
     ErrorCode::kCorrupt, "needs 2"},
    {"NoOffsets", one_tensor(R"("dtype":"U8","shape":[1])"), ErrorCode::kCorrupt, "data_offsets"},
    {"OneOffset", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0])"), ErrorCode::kCorrupt,
     "data_offsets"},
    {"OffsetsBackwards", one_tensor(R"("dtype":"U8","shape":[1],"data_offsets":[2,1])"),
     ErrorCode::kCorrupt, "bytes 2 to 1"},
    {"OffsetsBeyondTheData", one_tensor(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
     ErrorCode::kCorrupt, "the data ends at 8"},
    {"OverlappingTensors",
     R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
         "b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
     ErrorCode::kCorrupt, "overlap"},
    {"SameTensorTwice",
     R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
         "a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
     ErrorCode::kCorrupt, "twice"},
    {"SameFieldTwice", one_tensor(R"("dtype":"U8","shape":[1],"shape":[2],"data_offsets":[0,1])"),
     ErrorCode::kCorrupt, "twice"},
    {"MetadataIsNoObject", R"({"__metadata__":"x"})", ErrorCode::kCorrupt, "__metadata__"},
    {"MetadataIsNoString", R"({"__metadata__":{"a":1}})", ErrorCode::kCorrupt, "not a string"},
};

class SafetensorsLieTest : public ::testing::TestWithParam<Lie> {};

TEST_P(SafetensorsLieTest, IsRefusedWithItsReason) {
  const TempFolder folder;
  const auto path = folder.write("lie.safetensors", file_bytes(GetParam().header, "01234567"));
  D2Q_EXPECT_ERROR(SafetensorsFile{path}, GetParam().code, GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(Lies, SafetensorsLieTest, ::testing::ValuesIn(kLies),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(SafetensorsTest, RefusesAHeaderLongerThanTheFileOrTheLimit) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(SafetensorsFile(folder.write("a", "1234")), ErrorCode::kCorrupt, "too few");
  std::string bytes = file_bytes("{}", "");
  bytes[0] = 3;
  D2Q_EXPECT_ERROR(SafetensorsFile(folder.write("b", bytes)), ErrorCode::kCorrupt, "header of 3");
  std::memset(bytes.data(), 0xff, 8);
  D2Q_EXPECT_ERROR(SafetensorsFile(folder.write("c", bytes)), ErrorCode::kCorrupt, "100000000");
}

const std::vector<SafetensorsSpec> kSpecs = {{"odd", SafetensorsType::kU8, {3}},
                                             {"second", SafetensorsType::kF32, {2, 1}},
                                             {"a \"quoted\" name", SafetensorsType::kF16, {1}}};

void write_sample(const std::filesystem::path& path) {
  SafetensorsWriter writer(path, kSpecs, {{"key", "value"}});
  writer.write("odd", bytes_of("abc"));
  writer.write("second", bytes_of("01234567"));
  writer.write("a \"quoted\" name", bytes_of("xy"));
  writer.finish();
}

TEST(SafetensorsWriterTest, WhatItWritesIsReadBackAligned) {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  write_sample(path);
  const SafetensorsFile file(path);
  ASSERT_EQ(file.tensors().size(), kSpecs.size());  // the padding is not listed
  for (size_t i = 0; i < kSpecs.size(); ++i) {
    const SafetensorsTensor& tensor = file.tensors()[i];
    EXPECT_EQ(tensor.name, kSpecs[i].name);
    EXPECT_EQ(tensor.type, kSpecs[i].type);
    EXPECT_EQ(tensor.shape, kSpecs[i].shape);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % kSafetensorsAlignment, 0u);
  }
  EXPECT_EQ(text_of(*file.find("odd")), "abc");
  EXPECT_EQ(text_of(*file.find("second")), "01234567");
  EXPECT_EQ(file.metadata().at("key"), "value");
}

TEST(SafetensorsWriterTest, EqualCallsGiveEqualBytes) {
  const TempFolder folder;
  write_sample(folder.path() / "a");
  write_sample(folder.path() / "b");
  EXPECT_EQ(read_file(folder.path() / "a", 1 << 20), read_file(folder.path() / "b", 1 << 20));
}

// Golden bytes: a change of the layout would make old folders differ from new ones.
TEST(SafetensorsWriterTest, TheBytesAreTheseForEver) {
  const TempFolder folder;
  const auto path = folder.path() / "a";
  SafetensorsWriter writer(path,
                           {{"t", SafetensorsType::kU8, {1}}, {"u", SafetensorsType::kU8, {2}}});
  writer.write("t", bytes_of("x"));
  writer.write("u", bytes_of("yz"));
  writer.finish();
  const std::string bytes = read_file(path, 1 << 20);
  std::string header = R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("__padding__.1":{"dtype":"U8","shape":[63],"data_offsets":[1,64]},)"
                       R"("u":{"dtype":"U8","shape":[2],"data_offsets":[64,66]}})";
  header.resize((header.size() + 8 + 63) / 64 * 64 - 8, ' ');
  EXPECT_EQ(bytes, file_bytes(header, "x" + std::string(63, '\0') + "yz"));
}

TEST(SafetensorsWriterTest, NothingIsLeftWithoutFinish) {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  {
    SafetensorsWriter writer(path, kSpecs);
    writer.write("odd", bytes_of("abc"));
    EXPECT_THROW(writer.finish(), InternalError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriterTest, MistakesOfTheCallerAreOurBugs) {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  SafetensorsWriter writer(path, kSpecs);
  EXPECT_THROW(writer.write("second", bytes_of("01234567")), InternalError);  // not its turn
  EXPECT_THROW(writer.write("odd", bytes_of("ab")), InternalError);           // too short
  EXPECT_THROW(SafetensorsWriter(path, {kSpecs[0], kSpecs[0]}), InternalError);
  EXPECT_THROW(SafetensorsWriter(path, {{"__padding__.0", SafetensorsType::kU8, {1}}}),
               InternalError);
}

TEST(SafetensorsFolderTest, ReadsASingleFile) {
  const TempFolder folder;
  write_sample(folder.path() / "model.safetensors");
  const SafetensorsFolder model(folder.path());
  ASSERT_NE(model.find("odd"), nullptr);
  EXPECT_EQ(model.find("none"), nullptr);
  EXPECT_EQ(model.file_of(*model.find("odd")).filename(), "model.safetensors");
  ASSERT_NE(model.find_metadata("key"), nullptr);
  EXPECT_EQ(*model.find_metadata("key"), "value");
  EXPECT_EQ(model.find_metadata("none"), nullptr);
}

void write_shard(const std::filesystem::path& path, const std::string& tensor,
                 std::string_view bytes) {
  SafetensorsWriter writer(path,
                           {{tensor, SafetensorsType::kU8, {static_cast<int64_t>(bytes.size())}}},
                           {{tensor + ".key", tensor}});
  writer.write(tensor, bytes_of(bytes));
  writer.finish();
}

TEST(SafetensorsFolderTest, ReadsShardsThroughTheIndexThatItWrote) {
  const TempFolder folder;
  write_shard(folder.path() / "model-1.safetensors", "a", "first");
  write_shard(folder.path() / "model-2.safetensors", "b", "second");
  write_safetensors_index(folder.path(), {"model-1.safetensors", "model-2.safetensors"});
  const SafetensorsFolder model(folder.path());
  EXPECT_EQ(text_of(*model.find("a")), "first");
  EXPECT_EQ(text_of(*model.find("b")), "second");
  EXPECT_EQ(model.file_of(*model.find("b")).filename(), "model-2.safetensors");
  EXPECT_EQ(*model.find_metadata("b.key"), "b");
  EXPECT_EQ(model.files().size(), 2u);
}

TEST(SafetensorsFolderTest, NamesWhatIsMissing) {
  const TempFolder folder;
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kNotFound, "model.safetensors");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"gone.safetensors"}})");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kNotFound, "gone.safetensors");
}

TEST(SafetensorsFolderTest, RefusesAnIndexThatLies) {
  const TempFolder folder;
  const char* index = "model.safetensors.index.json";
  write_shard(folder.path() / "s.safetensors", "a", "first");
  folder.write(index, R"({"weight_map":{"b":"s.safetensors"}})");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kCorrupt, "'b'");
  folder.write(index, R"({"weight_map":{"a":"../s.safetensors"}})");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kCorrupt, "plain file name");
  folder.write(index, R"({"weight_map":{"a":7}})");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kCorrupt, "plain file name");
  folder.write(index, R"({"weight_map":[]})");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kCorrupt, "weight_map");
  folder.write(index, R"({"weight_map":)");
  D2Q_EXPECT_ERROR(SafetensorsFolder(folder.path()), ErrorCode::kCorrupt, "JSON");
}

}  // namespace
}  // namespace d2q
