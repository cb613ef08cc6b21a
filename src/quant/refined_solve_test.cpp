// The refined solver of METHOD.md §8 against its formulas written out in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "quant/options.h"
#include "quant/solve.h"
#include "quant/testing/literal_gptaq.h"
#include "quant/testing/reconstruct.h"
#include "quant/testing/solver_problem.h"

namespace d2q {
namespace {

constexpr double kDamping = 0.01;
constexpr double kAlpha = 0.25;
constexpr int64_t kRows = 20;
constexpr int64_t kColumns = 112;
constexpr int64_t kGroup = 32;  // the last group is short

const Grid kGrids[] = {{GridKind::kSignPlanes, 2, false, true, 15},
                       {GridKind::kSignPlanes, 2, false, false, 15},
                       {GridKind::kSignPlanes, 3, false, false, 15},
                       {GridKind::kUniform, 4, true, false, 15}};

class RefinedSolveTest : public ::testing::Test {
 protected:
  RefinedSolveTest() {
    double mean = 0.0;
    for (int64_t j = 0; j < kColumns; ++j) mean += hessian_(j, j) / static_cast<double>(kColumns);
    for (int64_t j = 0; j < kColumns; ++j) hessian_(j, j) += kDamping * mean;
  }

  LinearSolution solve(const Grid& grid, int rounds, bool with_cross) {
    InputSetSolver solver(*device_, test::on_device(*device_, problem_.gram),
                          with_cross ? test::on_device(*device_, problem_.cross) : Tensor{},
                          {kAlpha, kDamping, true, rounds}, "test");
    return solver.solve(test::on_device(*device_, problem_.weight), grid, kGroup);
  }

  /// W* = W (I + α D Hd⁻¹), §8.1.
  Matrix<double> target(bool with_cross) const {
    Matrix<double> result = test::widen(problem_.weight);
    if (!with_cross) return result;
    const Matrix<double> inverse = test::inverse(hessian_.clone());
    Matrix<double> map(kColumns, kColumns, true);
    for (int64_t i = 0; i < kColumns; ++i) {
      for (int64_t k = 0; k < kColumns; ++k) {
        const double d =
            static_cast<double>(problem_.cross(i, k)) - static_cast<double>(problem_.gram(i, k));
        for (int64_t j = 0; j < kColumns; ++j) map(i, j) += kAlpha * d * inverse(k, j);
      }
    }
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < kColumns; ++i) {
        for (int64_t j = 0; j < kColumns; ++j)
          result(row, j) += static_cast<double>(problem_.weight(row, i)) * map(i, j);
      }
    }
    return result;
  }

  /// Σ (ŵ − w*) M (ŵ − w*)ᵀ / tr(W H Wᵀ) of a solution, H undamped in the denominator.
  double objective(const LinearSolution& solution, bool with_cross,
                   const Matrix<double>& metric) const {
    const Matrix<float> weights = test::reconstruct(solution);
    const Matrix<double> wanted = target(with_cross);
    double total = 0.0;
    double scale = 0.0;
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < kColumns; ++i) {
        for (int64_t j = 0; j < kColumns; ++j) {
          total += (static_cast<double>(weights(row, i)) - wanted(row, i)) * metric(i, j) *
                   (static_cast<double>(weights(row, j)) - wanted(row, j));
          scale += static_cast<double>(problem_.weight(row, i)) *
                   static_cast<double>(problem_.gram(i, j)) *
                   static_cast<double>(problem_.weight(row, j));
        }
      }
    }
    return total / scale;
  }

  test::SolverProblem problem_ = test::solver_problem(kRows, kColumns);
  Matrix<double> hessian_ = test::widen(problem_.gram);  // damped
  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

TEST_F(RefinedSolveTest, ReportsTheObjectiveOfTheExactTarget) {
  for (const bool with_cross : {true, false}) {
    for (const Grid& grid : kGrids) {
      const LinearSolution solution = solve(grid, 2, with_cross);
      // The walk, the first refit, and in each of two rounds codes, scales and perhaps c.
      ASSERT_EQ(solution.stages.size(), grid.column_scale ? 8u : 6u);
      const double expected = objective(solution, with_cross, hessian_);
      // f32 products of the 112-column rows against f64.
      EXPECT_NEAR(solution.stages.back().objective, expected, 1e-3 * expected)
          << "bits " << grid.bits;
      const double undamped = objective(solution, with_cross, test::widen(problem_.gram));
      EXPECT_NEAR(solution.target_error, undamped, 1e-3 * undamped) << "bits " << grid.bits;
    }
  }
}

TEST_F(RefinedSolveTest, EachRoundLowersTheObjective) {
  for (const Grid& grid : kGrids) {
    double last = HUGE_VAL;
    for (const int rounds : {0, 1, 3, 8}) {
      const LinearSolution solution = solve(grid, rounds, true);
      EXPECT_LT(solution.stages.back().objective, solution.stages.front().objective);
      EXPECT_LE(solution.stages.back().objective, last * (1.0 + 1e-5))
          << rounds << " rounds, bits " << grid.bits;
      last = solution.stages.back().objective;
      for (size_t i = 1; i < solution.stages.size(); ++i) {
        // f32 objectives of nearly equal weights.
        EXPECT_LE(solution.stages[i].objective, solution.stages[i - 1].objective * (1.0 + 1e-5))
            << solution.stages[i].stage;
      }
    }
  }
}

TEST_F(RefinedSolveTest, ParametersAreWhatTheFileHolds) {
  for (const Grid& grid : kGrids) {
    const LinearSolution solution = solve(grid, 2, true);
    for (const float value : solution.params) EXPECT_EQ(value, to_float(to_half(value)));
  }
}

TEST_F(RefinedSolveTest, APortableGridHasZerosOfOneAndTwoAndIsBetterThanRounding) {
  const Grid grid{GridKind::kUniform, 2, true, false, 15};
  // A group of weights on one side of 0, whose own zero would be 0.
  for (int64_t j = 0; j < kGroup; ++j) problem_.weight(3, j) = std::abs(problem_.weight(3, j));
  InputSetSolver solver(*device_, test::on_device(*device_, problem_.gram),
                        test::on_device(*device_, problem_.cross), {kAlpha, kDamping, true, 3},
                        "test");
  const LinearSolution solution =
      solver.solve(test::on_device(*device_, problem_.weight), grid, kGroup, true);
  for (size_t i = 1; i < solution.params.size(); i += 2)
    EXPECT_TRUE(solution.params[i] == 1.0f || solution.params[i] == 2.0f) << solution.params[i];
  for (size_t i = 1; i < solution.stages.size(); ++i) {
    EXPECT_EQ(solution.stages[i].stage, "codes");
    EXPECT_LE(solution.stages[i].objective, solution.stages[i - 1].objective * (1.0 + 1e-6));
  }
  EXPECT_LT(solution.objective_after, solution.objective_before);
  InputSetSolver rounding(*device_, kColumns);
  const LinearSolution rounded =
      rounding.solve(test::on_device(*device_, problem_.weight), grid, kGroup, true);
  for (size_t i = 1; i < rounded.params.size(); i += 2)
    EXPECT_TRUE(rounded.params[i] == 1.0f || rounded.params[i] == 2.0f) << rounded.params[i];
}

TEST(Presets, BestAndFastRefineAndPaperDoesNot) {
  EXPECT_FALSE(preset_options("paper").refine);
  EXPECT_FALSE(preset_options("paper").sign_planes);
  EXPECT_TRUE(preset_options("best").refine);
  EXPECT_GT(preset_options("best").refine_rounds, preset_options("fast").refine_rounds);
  EXPECT_LT(preset_options("fast").samples, preset_options("best").samples);
}

}  // namespace
}  // namespace d2q
