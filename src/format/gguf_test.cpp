#include "format/gguf.h"

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "format/testing/gguf_builder.h"

namespace d2q {
namespace {

using testing::GgufBuilder;
using testing::put;
using testing::TempFolder;

const std::filesystem::path kGolden = std::filesystem::path(D2Q_TEST_DATA) / "golden_types.gguf";

TEST(GgufTest, ReadsMetadataThatAnotherProgramWrote) {
  const GgufFile file(kGolden);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.integer("test.uint32"), 4000000000);
  EXPECT_EQ(file.integer("test.int32"), -5);
  EXPECT_EQ(file.number("test.float32"), 0.5);
  EXPECT_EQ(file.number("test.int32"), -5.0);
  EXPECT_EQ(file.boolean("test.bool"), true);
  EXPECT_EQ(file.string("test.string"), "h\u00e9llo");
  EXPECT_EQ(file.strings("test.strings"), (std::vector<std::string_view>{"a", "", "\u4e16\u754c"}));
  EXPECT_EQ(file.integers("test.integers"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(file.numbers("test.floats"), (std::vector<double>{0.25, -1.5}));
  EXPECT_EQ(file.keys().front(), "general.architecture");
}

TEST(GgufTest, AbsentKeysAndTensorsAreNoErrors) {
  const GgufFile file(kGolden);
  EXPECT_FALSE(file.has_key("none"));
  EXPECT_EQ(file.integer("none"), std::nullopt);
  EXPECT_EQ(file.strings("none"), std::nullopt);
  EXPECT_EQ(file.find("none"), nullptr);
}

TEST(GgufTest, AValueOfAnotherTypeIsNamed) {
  const GgufFile file(kGolden);
  D2Q_EXPECT_ERROR(file.integer("test.float32"), ErrorCode::kCorrupt, "test.float32");
  D2Q_EXPECT_ERROR(file.integer("test.integers"), ErrorCode::kUnsupported, "an array");
  D2Q_EXPECT_ERROR(file.integers("test.int32"), ErrorCode::kCorrupt, "not an array");
  D2Q_EXPECT_ERROR(file.integers("test.floats"), ErrorCode::kCorrupt, "test.floats");
  D2Q_EXPECT_ERROR(file.strings("test.integers"), ErrorCode::kCorrupt, "strings");
  D2Q_EXPECT_ERROR(file.boolean("test.int32"), ErrorCode::kCorrupt, "boolean");
  D2Q_EXPECT_ERROR(file.string("test.bool"), ErrorCode::kCorrupt, "string");
  D2Q_EXPECT_ERROR(file.numbers("test.strings"), ErrorCode::kCorrupt, "numbers");
}

TEST(GgufTest, EveryIntegerTypeIsRead) {
  const TempFolder folder;
  GgufBuilder builder;
  builder.value("u8", 0, uint8_t{200}).value("i8", 1, int8_t{-100});
  builder.value("u16", 2, uint16_t{60000}).value("i16", 3, int16_t{-30000});
  builder.value("u64", 10, uint64_t{1} << 40).value("i64", 11, -(int64_t{1} << 40));
  builder.value("f64", 12, 0.1).value("huge", 10, ~uint64_t{0});
  const GgufFile file(folder.write("a.gguf", builder.build()));
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i8"), -100);
  EXPECT_EQ(file.integer("u16"), 60000);
  EXPECT_EQ(file.integer("i16"), -30000);
  EXPECT_EQ(file.integer("u64"), int64_t{1} << 40);
  EXPECT_EQ(file.integer("i64"), -(int64_t{1} << 40));
  EXPECT_EQ(file.number("f64"), 0.1);
  D2Q_EXPECT_ERROR(file.integer("huge"), ErrorCode::kCorrupt, "below 2^63");
}

TEST(GgufTest, ReadsVersionTwoAndAnotherAlignment) {
  const TempFolder folder;
  GgufBuilder builder;
  builder.version = 2;
  builder.alignment = 128;
  builder.u32("general.alignment", 128);
  builder.tensor_f32("a", {3}, {1, 2, 3}).tensor_f32("b", {2, 1}, {4, 5});
  const GgufFile file(folder.write("a.gguf", builder.build()));
  ASSERT_NE(file.find("b"), nullptr);
  EXPECT_EQ(file.find("b")->shape, (std::vector<int64_t>{1, 2}));
  std::vector<float> values(2);
  file.dequantize_rows(*file.find("b"), 0, 1, values);
  EXPECT_EQ(values, (std::vector<float>{4, 5}));
}

// One lie a file.
struct Lie {
  const char* name;
  std::function<std::string()> file;
  ErrorCode code;
  const char* text;
};
void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }

std::string array_header(uint32_t type, uint64_t count) {
  std::string bytes;
  put(bytes, type);
  put(bytes, count);
  return bytes;
}

GgufBuilder good() {
  GgufBuilder builder;
  builder.u32("a", 1).tensor_f32("t", {4}, {1, 2, 3, 4});
  return builder;
}

template <typename Change>
std::string changed(Change change) {
  GgufBuilder builder = good();
  change(builder);
  return builder.build();
}

const std::vector<Lie> kLies = {
    {"Empty", [] { return std::string(); }, ErrorCode::kCorrupt, "magic"},
    {"OtherMagic", [] { return changed([](auto& b) { b.magic = 0x1234; }); }, ErrorCode::kCorrupt,
     "GGUF"},
    {"VersionOne", [] { return changed([](auto& b) { b.version = 1; }); }, ErrorCode::kUnsupported,
     "version 1"},
    {"BigEndian", [] { return changed([](auto& b) { b.version = 0x03000000; }); },
     ErrorCode::kUnsupported, "big-endian"},
    {"TooManyTensors", [] { return changed([](auto& b) { b.n_tensors = uint64_t{1} << 62; }); },
     ErrorCode::kCorrupt, "tensors"},
    {"TooManyKeys", [] { return changed([](auto& b) { b.n_keys = uint64_t{1} << 62; }); },
     ErrorCode::kCorrupt, "metadata keys"},
    {"OneTensorMoreThanThereIs", [] { return changed([](auto& b) { b.n_tensors = 2; }); },
     ErrorCode::kCorrupt, "t"},
    {"KeyLongerThanAllowed",
     [] { return changed([](auto& b) { b.u32(std::string(70'000, 'k'), 1); }); },
     ErrorCode::kCorrupt, "70000"},
    {"KeyTwice", [] { return changed([](auto& b) { b.u32("a", 2); }); }, ErrorCode::kCorrupt,
     "twice"},
    {"UnknownValueType", [] { return changed([](auto& b) { b.value("x", 13, 0); }); },
     ErrorCode::kCorrupt, "value type 13"},
    {"StringLongerThanTheFile",
     [] { return changed([](auto& b) { b.value("x", 8, uint64_t{1} << 20); }); },
     ErrorCode::kCorrupt, "file ends"},
    {"StringLongerThanAllowed",
     [] { return changed([](auto& b) { b.value("x", 8, ~uint64_t{0}); }); }, ErrorCode::kCorrupt,
     "allowed"},
    {"ArrayLongerThanTheFile",
     [] { return changed([](auto& b) { b.raw_value("x", 9, array_header(12, 1 << 20)); }); },
     ErrorCode::kCorrupt, "file ends"},
    {"ArrayLongerThanAllowed",
     [] {
       return changed([](auto& b) { b.raw_value("x", 9, array_header(0, uint64_t{1} << 61)); });
     },
     ErrorCode::kCorrupt, "allowed"},
    {"ArrayOfArrays",
     [] { return changed([](auto& b) { b.raw_value("x", 9, array_header(9, 1)); }); },
     ErrorCode::kUnsupported, "array of arrays"},
    {"BooleanTwo", [] { return changed([](auto& b) { b.value("x", 7, uint8_t{2}); }); },
     ErrorCode::kCorrupt, "boolean with value 2"},
    {"AlignmentOfThree", [] { return changed([](auto& b) { b.u32("general.alignment", 3); }); },
     ErrorCode::kCorrupt, "power of two"},
    {"AlignmentOfZero", [] { return changed([](auto& b) { b.u32("general.alignment", 0); }); },
     ErrorCode::kCorrupt, "power of two"},
    {"HugeAlignment", [] { return changed([](auto& b) { b.u32("general.alignment", 1u << 30); }); },
     ErrorCode::kCorrupt, "power of two"},
    {"NoDimensions", [] { return changed([](auto& b) { b.tensor_at("x", {}, 0, 32); }); },
     ErrorCode::kCorrupt, "0 dimensions"},
    {"FiveDimensions",
     [] { return changed([](auto& b) {
            b.tensor_at("x", {1, 1, 1, 1, 1}, 0, 32);
          }); },
     ErrorCode::kCorrupt, "5 dimensions"},
    {"EmptyDimension", [] { return changed([](auto& b) {
                              b.tensor_at("x", {4, 0}, 0, 32);
                            }); },
     ErrorCode::kCorrupt, "0 elements"},
    {"ShapeThatOverflows",
     [] {
       return changed([](auto& b) {
         b.tensor_at("x", {uint64_t{1} << 33, uint64_t{1} << 33}, 0, 32);
       });
     },
     ErrorCode::kCorrupt, "overflows"},
    {"ElementsBeyondSigned",
     [] { return changed([](auto& b) { b.tensor_at("x", {uint64_t{1} << 63}, 0, 32); }); },
     ErrorCode::kCorrupt, "elements"},
    {"UnknownTensorType", [] { return changed([](auto& b) { b.tensor_at("x", {4}, 20, 32); }); },
     ErrorCode::kUnsupported, "quantization type 20"},
    {"RowsThatAreNoWholeBlocks",
     [] { return changed([](auto& b) { b.tensor_at("x", {33}, 8, 32); }); }, ErrorCode::kCorrupt,
     "multiple of 32"},
    {"OffsetBeyondTheFile",
     [] { return changed([](auto& b) { b.tensor_at("x", {4}, 0, 1 << 20); }); },
     ErrorCode::kCorrupt, "file ends"},
    {"OffsetThatOverflows",
     [] { return changed([](auto& b) { b.tensor_at("x", {4}, 0, ~uint64_t{31}); }); },
     ErrorCode::kCorrupt, "'x'"},
    {"MisalignedOffset", [] { return changed([](auto& b) { b.tensor_at("x", {1}, 0, 4); }); },
     ErrorCode::kCorrupt, "alignment"},
    {"OverlappingTensors", [] { return changed([](auto& b) { b.tensor_at("x", {4}, 0, 0); }); },
     ErrorCode::kCorrupt, "overlap"},
    {"TensorTwice", [] { return changed([](auto& b) { b.tensor_f32("t", {1}, {1}); }); },
     ErrorCode::kCorrupt, "twice"},
};

class GgufLieTest : public ::testing::TestWithParam<Lie> {};

TEST_P(GgufLieTest, IsRefusedWithItsReason) {
  const TempFolder folder;
  const auto path = folder.write("lie.gguf", GetParam().file());
  D2Q_EXPECT_ERROR(GgufFile{path}, GetParam().code, GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(Lies, GgufLieTest, ::testing::ValuesIn(kLies),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(GgufTest, EveryTruncationIsRefused) {
  const TempFolder folder;
  const std::string whole = good().build();
  for (size_t length = 0; length < whole.size(); ++length) {
    const auto path = folder.write("cut.gguf", std::string_view(whole).substr(0, length));
    EXPECT_THROW(GgufFile{path}, Error) << length;
  }
  EXPECT_NO_THROW(GgufFile(folder.write("whole.gguf", whole)));
}

}  // namespace
}  // namespace d2q
