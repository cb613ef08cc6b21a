#include "linalg/rotation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "base/rng.h"

namespace d2q {
namespace {

std::vector<std::vector<double>> dense(const Rotation& rotation) {
  const int64_t n = rotation.dimension();
  std::vector<std::vector<double>> rows;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> row(static_cast<size_t>(n), 0.0);
    row[static_cast<size_t>(i)] = 1.0;
    rotation.rotate_row(row.data());
    rows.push_back(row);
  }
  return rows;
}

TEST(Rotation, IsOrthogonalForBlocksAndForAnyFullWidth) {
  for (const Rotation& rotation :
       {Rotation::block_diagonal(192, 64, 3), Rotation::full(64, 3), Rotation::full(36, 4),
        Rotation::full(7, 5), Rotation::full(576, 6)}) {
    const auto r = dense(rotation);
    const size_t n = r.size();
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        double dot = 0.0;
        for (size_t k = 0; k < n; ++k) dot += r[i][k] * r[j][k];
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-12);
      }
    }
  }
}

TEST(Rotation, KeepingTheMeanIsStillOrthogonalAndKeepsTheOnesOfEveryBlock) {
  for (const Rotation& rotation :
       {Rotation::block_diagonal(192, 64, 3).keeping_mean(), Rotation::full(36, 4).keeping_mean(),
        Rotation::block_diagonal(6, 1, 3).keeping_mean()}) {
    EXPECT_TRUE(rotation.keeps_mean());
    const auto r = dense(rotation);
    const size_t n = r.size();
    std::vector<double> ones(n, 1.0);
    rotation.rotate_row(ones.data());
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(ones[i], 1.0, 1e-12);
      for (size_t j = 0; j <= i; ++j) {
        double dot = 0.0;
        for (size_t k = 0; k < n; ++k) dot += r[i][k] * r[j][k];
        ASSERT_NEAR(dot, i == j ? 1.0 : 0.0, 1e-12);
      }
    }
  }
  EXPECT_FALSE(Rotation::full(36, 4).keeps_mean());
}

TEST(Rotation, BlocksRepeatTheSameMatrix) {
  const auto r = dense(Rotation::block_diagonal(64, 16, 9));
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 64; ++j) {
      EXPECT_EQ(r[i][j], j < 16 ? r[i + 16][j + 16] : 0.0);
    }
  }
}

TEST(Rotation, RotatingRowsAndColumnsLeavesTheProductUnchanged) {
  ThreadPool pool(2);
  Rng rng(1);
  const Rotation rotation = Rotation::full(72, 11);
  Matrix<float> a(5, 72);
  Matrix<float> b(72, 33);
  for (float& value : a.span()) value = static_cast<float>(rng.gaussian());
  for (float& value : b.span()) value = static_cast<float>(rng.gaussian());
  Matrix<float> ra = a.clone();
  Matrix<float> rb = b.clone();
  rotation.rotate_rows(ra, pool);
  rotation.rotate_columns(rb, pool);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 33; ++j) {
      double before = 0.0;
      double after = 0.0;
      for (int64_t k = 0; k < 72; ++k) {
        before += static_cast<double>(a(i, k)) * b(k, j);
        after += static_cast<double>(ra(i, k)) * rb(k, j);
      }
      EXPECT_NEAR(before, after, 1e-5);  // 72 products of f32-rounded values of size ~1
    }
  }
}

TEST(Rotation, BlockIsTheLargestPowerOfTwoThatDividesTheWidthAndFitsTheGroup) {
  EXPECT_EQ(Rotation::block_for(576, 128), 64);
  EXPECT_EQ(Rotation::block_for(4096, 128), 128);
  EXPECT_EQ(Rotation::block_for(4096, 96), 64);
  EXPECT_EQ(Rotation::block_for(7, 128), 1);
}

}  // namespace
}  // namespace d2q
