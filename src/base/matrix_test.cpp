#include "base/matrix.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "base/testing/expect_error.h"

namespace d2q {
namespace {

TEST(MatrixTest, IsAlignedAndRowMajor) {
  for (const int64_t cols : {1, 3, 16, 17}) {
    Matrix<float> matrix(5, cols);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix.data()) % 64, 0u);
    EXPECT_EQ(&matrix(2, cols - 1), matrix.data() + 3 * cols - 1);
    EXPECT_EQ(matrix.row(4), matrix.data() + 4 * cols);
    EXPECT_EQ(matrix.span().size(), static_cast<size_t>(5 * cols));
  }
}

TEST(MatrixTest, LargeOnesAreAlignedAndWholeToo) {
  for (const int64_t size : {(16 << 20) - 1, 16 << 20, (16 << 20) + 1}) {
    Matrix<uint8_t> matrix(1, size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix.data()) % 64, 0u);
    matrix(0, 0) = 1;
    matrix(0, size - 1) = 2;
    EXPECT_EQ(matrix(0, 0) + matrix(0, size - 1), 3);
  }
}

TEST(MatrixTest, ZeroFillsWhenAsked) {
  const Matrix<double> matrix(7, 9, true);
  for (const double value : matrix.span()) EXPECT_EQ(value, 0.0);
}

TEST(MatrixTest, ACloneIsIndependent) {
  Matrix<int32_t> matrix(2, 2, true);
  Matrix<int32_t> copy = matrix.clone();
  copy(1, 1) = 5;
  EXPECT_EQ(matrix(1, 1), 0);
  EXPECT_EQ(copy(1, 1), 5);
  EXPECT_EQ(copy.rows(), 2);
}

TEST(MatrixTest, AMoveHandsOverTheBuffer) {
  Matrix<float> matrix(3, 4, true);
  const float* data = matrix.data();
  const Matrix<float> moved = std::move(matrix);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(moved.cols(), 4);
}

TEST(MatrixTest, EmptyMatricesAreHarmless) {
  EXPECT_TRUE(Matrix<float>().empty());
  EXPECT_TRUE(Matrix<float>(0, 5).empty());
  EXPECT_EQ(Matrix<float>(0, 5).clone().cols(), 5);
}

TEST(MatrixTest, RefusesSizesThatOverflow) {
  D2Q_EXPECT_ERROR(Matrix<float>(int64_t{1} << 40, int64_t{1} << 40), ErrorCode::kCorrupt,
                   "overflows");
}

}  // namespace
}  // namespace d2q
