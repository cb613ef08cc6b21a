#include "quant/absorb.h"

#include <cmath>
#include <memory>

#include "base/rng.h"
#include "base/testing/expect_error.h"
#include "quant/testing/reconstruct.h"

namespace d2q {
namespace {

constexpr int64_t kHidden = 24;
constexpr int64_t kInner = 40;

Matrix<float> random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  Rng rng(seed);
  Matrix<float> matrix(rows, cols);
  for (float& value : matrix.span()) value = static_cast<float>(rng.gaussian());
  return matrix;
}

/// down(hidden ⊙ (up x + bias)), and what it would be with every term taken as positive.
struct Output {
  std::vector<double> values;
  std::vector<double> magnitudes;
};
Output run(const Matrix<float>& up, const std::vector<float>& bias, const Matrix<float>& down) {
  Rng rng(9);
  std::vector<double> x(kHidden);
  for (double& value : x) value = rng.gaussian();
  Output y{std::vector<double>(kHidden), std::vector<double>(kHidden)};
  for (int64_t j = 0; j < kInner; ++j) {
    double sum = bias.empty() ? 0.0 : static_cast<double>(bias[static_cast<size_t>(j)]);
    double magnitude = std::abs(sum);
    for (int64_t k = 0; k < kHidden; ++k) {
      sum += static_cast<double>(up(j, k)) * x[static_cast<size_t>(k)];
      magnitude += std::abs(static_cast<double>(up(j, k)) * x[static_cast<size_t>(k)]);
    }
    const double gate = rng.gaussian();
    for (int64_t i = 0; i < kHidden; ++i) {
      y.values[static_cast<size_t>(i)] += static_cast<double>(down(i, j)) * gate * sum;
      y.magnitudes[static_cast<size_t>(i)] +=
          std::abs(static_cast<double>(down(i, j)) * gate) * magnitude;
    }
  }
  return y;
}

/// `relative`: how far each product may be off.
void expect_same_output(const Output& actual, const Output& expected, double relative) {
  for (size_t i = 0; i < kHidden; ++i) {
    EXPECT_NEAR(actual.values[i], expected.values[i], relative * expected.magnitudes[i]) << i;
  }
}

class AbsorbTest : public ::testing::Test {
 protected:
  LinearSolution solve(const Matrix<float>& weight, const Grid& grid) {
    return InputSetSolver(*device_, weight.cols())
        .solve(test::on_device(*device_, weight), grid, 16);
  }
  LinearSolution solved_down() {
    Matrix<float> weight = random_matrix(kHidden, kInner, 2);
    // Columns of different sizes, so that c is not 1.
    for (int64_t i = 0; i < kHidden; ++i) {
      for (int64_t j = 0; j < kInner; ++j) weight(i, j) *= std::exp2(static_cast<float>(j % 5 - 2));
    }
    return solve(weight, {GridKind::kSignPlanes, 2, false, true, 15});
  }

  ThreadPool pool_{1};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
  std::vector<float> bias_ = std::vector<float>(kInner, 0.75f);
};

/// Half a unit of fp16 on every scale, and a few roundings of f32 beside it.
constexpr double kHalfRounding = 1.0 / 2048.0 + 1e-6;

TEST_F(AbsorbTest, APackedUpProjectionTakesTheScaleUpToTheRoundingOfItsOwn) {
  for (const Grid& grid :
       {Grid{GridKind::kUniform, 2, true, false, 15}, Grid{GridKind::kUniform, 8, true, false, 15},
        Grid{GridKind::kSignPlanes, 3, false, false, 15}}) {
    LinearSolution up = solve(random_matrix(kInner, kHidden, 1), grid);
    LinearSolution down = solved_down();
    const std::vector<float> c = down.column_scale;
    EXPECT_GT(*std::max_element(c.begin(), c.end()), 1.5f);
    const std::vector<uint8_t> codes = up.codes;
    const Output before = run(test::reconstruct(up), bias_, test::reconstruct(down));
    std::vector<float> bias = bias_;
    absorb_column_scale(down, up, bias);
    // Three planes can nearly cancel in a level: as many roundings add up.
    const double relative = grid.kind == GridKind::kUniform ? kHalfRounding : 16 * kHalfRounding;
    expect_same_output(run(test::reconstruct(up), bias, test::reconstruct(down)), before, relative);
    EXPECT_EQ(up.codes, codes);
    EXPECT_FALSE(down.has_column_scale);
    for (const float scale : down.column_scale) EXPECT_EQ(scale, 1.0f);
    for (size_t j = 0; j < bias.size(); ++j) EXPECT_EQ(bias[j], bias_[j] * c[j]);
    // What is left is exact in the file.
    for (const float value : up.params) EXPECT_EQ(to_float(to_half(value)), value);
  }
}

TEST_F(AbsorbTest, TheZerosOfAUniformGridStay) {
  LinearSolution up =
      solve(random_matrix(kInner, kHidden, 1), {GridKind::kUniform, 2, true, false, 15});
  const std::vector<float> params = up.params;
  LinearSolution down = solved_down();
  const std::vector<float> c = down.column_scale;
  absorb_column_scale(down, up, {});
  const size_t per_row = params.size() / kInner;
  for (size_t i = 0; i < params.size(); ++i) {
    const float expected = i % 2 == 1 ? params[i] : to_float(to_half(params[i] * c[i / per_row]));
    EXPECT_EQ(up.params[i], expected) << i;
  }
}

TEST_F(AbsorbTest, ADenseUpProjectionTakesTheScaleToTheRoundingOfF32) {
  Matrix<float> up = random_matrix(kInner, kHidden, 1);
  LinearSolution down = solved_down();
  const Output before = run(up, bias_, test::reconstruct(down));
  std::vector<float> bias = bias_;
  absorb_column_scale(down, up, bias);
  expect_same_output(run(up, bias, test::reconstruct(down)), before, 1e-6);
  EXPECT_FALSE(down.has_column_scale);
}

TEST_F(AbsorbTest, AScaleThatLeavesTheRangeOfFp16IsAnError) {
  LinearSolution up =
      solve(random_matrix(kInner, kHidden, 1), {GridKind::kUniform, 2, true, false, 15});
  LinearSolution down = solved_down();
  const size_t per_row = up.params.size() / kInner;
  up.params[7 * per_row] = 60000.0f;
  down.column_scale[7] = 1.5f;
  D2Q_EXPECT_ERROR(absorb_column_scale(down, up, {}), ErrorCode::kNumeric, "row 7");
}

TEST_F(AbsorbTest, OtherWidthsAreOurBug) {
  LinearSolution up =
      solve(random_matrix(kHidden, kHidden, 1), {GridKind::kUniform, 2, true, false, 15});
  LinearSolution down = solved_down();
  EXPECT_THROW(absorb_column_scale(down, up, {}), InternalError);
  Matrix<float> dense = random_matrix(kInner, kHidden, 1);
  std::vector<float> short_bias(kInner - 1);
  EXPECT_THROW(absorb_column_scale(down, dense, short_bias), InternalError);
}

}  // namespace
}  // namespace d2q
