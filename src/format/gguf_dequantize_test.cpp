#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "format/gguf.h"

namespace d2q {
namespace {

const std::filesystem::path kData = D2Q_TEST_DATA;

std::vector<float> golden_values() {
  const std::string bytes = read_file(kData / "golden_types.f32", 1 << 20);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// The formats' own decoder computes in f32 with one rounding an operation, so ours must give the
// same bits.
TEST(GgufDequantizeTest, EveryTypeGivesTheBitsOfTheReferenceDecoder) {
  const GgufFile file(kData / "golden_types.gguf");
  const std::vector<float> expected = golden_values();
  ASSERT_EQ(file.tensors().size(), 13u);
  size_t position = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    EXPECT_EQ(tensor.name, to_string(tensor.type));
    std::vector<float> values(static_cast<size_t>(tensor.n_elements()));
    file.dequantize_rows(tensor, 0, tensor.n_rows(), values);
    ASSERT_LE(position + values.size(), expected.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[position + i]))
          << tensor.name << " weight " << i << ": " << values[i] << " against "
          << expected[position + i];
    }
    position += values.size();
  }
  EXPECT_EQ(position, expected.size());
}

TEST(GgufDequantizeTest, ARangeOfRowsIsThatPartOfTheWhole) {
  const GgufFile file(kData / "golden_types.gguf");
  for (const GgufTensor& tensor : file.tensors()) {
    const auto cols = static_cast<size_t>(tensor.row_length());
    std::vector<float> whole(2 * cols);
    file.dequantize_rows(tensor, 0, 2, whole);
    std::vector<float> row(cols);
    file.dequantize_rows(tensor, 1, 1, row);
    EXPECT_EQ(std::memcmp(row.data(), whole.data() + cols, cols * sizeof(float)), 0) << tensor.name;
  }
}

TEST(GgufDequantizeTest, RowsOutsideTheTensorAreOurBug) {
  const GgufFile file(kData / "golden_types.gguf");
  const GgufTensor& tensor = file.tensors().front();
  std::vector<float> out(256);
  EXPECT_THROW(file.dequantize_rows(tensor, 2, 1, out), InternalError);
  EXPECT_THROW(file.dequantize_rows(tensor, -1, 1, out), InternalError);
  EXPECT_THROW(file.dequantize_rows(tensor, 0, 2, out), InternalError);
}

}  // namespace
}  // namespace d2q
