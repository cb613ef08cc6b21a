#include "quant/solve.h"

#include <limits>
#include <memory>

#include "base/testing/expect_error.h"
#include "quant/testing/literal_gptaq.h"
#include "quant/testing/reconstruct.h"
#include "quant/testing/solver_problem.h"

namespace d2q {
namespace {

constexpr double kDamping = 0.01;

Grid uniform(int bits) { return {GridKind::kUniform, bits, true, false, 15}; }
Grid planes(int bits, bool column_scale) {
  return {GridKind::kSignPlanes, bits, false, column_scale, 15};
}

Matrix<double> deviation_of(const test::SolverProblem& problem) {
  Matrix<double> result = test::widen(problem.cross);
  for (int64_t i = 0; i < result.size(); ++i)
    result.data()[i] -= static_cast<double>(problem.gram.data()[i]);
  return result;
}

class SolveTest : public ::testing::Test {
 protected:
  InputSetSolver solver(const test::SolverProblem& problem, double alpha) {
    return {*device_, on_device(problem.gram), on_device(problem.cross),
            SolveOptions{alpha, kDamping}, "test"};
  }
  InputSetSolver gptq_solver(const test::SolverProblem& problem) {
    return {*device_, on_device(problem.gram), Tensor{}, SolveOptions{0.25, kDamping}, "test"};
  }

  Tensor on_device(const Matrix<float>& matrix) { return test::on_device(*device_, matrix); }

  ThreadPool pool_{2};
  std::unique_ptr<Device> device_ = make_cpu_device(pool_);
};

/// f32 against f64 over up to 160 columns of size ~1 behind a factor of condition ~1e2.
constexpr double kMargin = 1e-3;

TEST_F(SolveTest, FollowsTheLiteralMethod) {
  const struct {
    int64_t n;
    int64_t group_size;
  } shapes[] = {{96, 32}, {112, 48}, {100, 16}, {160, 32}, {60, 60}};
  for (const auto& [n, group_size] : shapes) {
    const test::SolverProblem problem = test::solver_problem(20, n);
    InputSetSolver subject = solver(problem, 0.25);
    const test::LiteralGptaq literal(test::widen(problem.gram), deviation_of(problem), 0.25,
                                     kDamping, group_size);
    for (const Grid& grid :
         {uniform(2), uniform(3), uniform(4), planes(2, true), planes(3, false)}) {
      const LinearSolution solution = subject.solve(on_device(problem.weight), grid, group_size);
      const auto verdict = literal.judge(problem.weight, solution, kMargin);
      EXPECT_EQ(verdict.wrong_codes, 0) << n << "/" << group_size << ", bits " << grid.bits;
      EXPECT_EQ(verdict.wrong_scales, 0) << n << "/" << group_size << ", bits " << grid.bits;
      EXPECT_EQ(solution.damping, kDamping);
      EXPECT_FALSE(solution.rounded_only);
    }
  }
}

TEST_F(SolveTest, TheLiteralMethodTellsOtherSettingsApart) {
  const test::SolverProblem problem = test::solver_problem(20, 96);
  const LinearSolution solution =
      solver(problem, 0.25).solve(on_device(problem.weight), uniform(3), 32);
  const auto wrong_codes = [&](double alpha, double damping, int64_t group_size) {
    const test::LiteralGptaq literal(test::widen(problem.gram), deviation_of(problem), alpha,
                                     damping, group_size);
    return literal.judge(problem.weight, solution, kMargin).wrong_codes;
  };
  EXPECT_EQ(wrong_codes(0.25, kDamping, 32), 0);
  EXPECT_GT(wrong_codes(0.0, kDamping, 32), 20);
  EXPECT_GT(wrong_codes(0.25, 0.1, 32), 20);
}

TEST_F(SolveTest, AlphaZeroIsGptqToTheBit) {
  const test::SolverProblem problem = test::solver_problem(20, 80);
  InputSetSolver without_cross = gptq_solver(problem);
  InputSetSolver without_weight = solver(problem, 0.0);
  for (const Grid& grid : {uniform(2), planes(2, true)}) {
    const LinearSolution a = without_cross.solve(on_device(problem.weight), grid, 32);
    const LinearSolution b = without_weight.solve(on_device(problem.weight), grid, 32);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.params, b.params);
    EXPECT_EQ(a.column_scale, b.column_scale);
    EXPECT_EQ(a.relative_error, b.relative_error);
  }
}

TEST_F(SolveTest, ReportsTheObjectiveOfTheMethod) {
  const test::SolverProblem problem = test::solver_problem(12, 64);
  const LinearSolution solution =
      solver(problem, 0.25).solve(on_device(problem.weight), uniform(3), 32);
  const Matrix<float> quantized = test::reconstruct(solution);
  double asymmetric = 0.0, constant = 0.0, symmetric = 0.0, scale = 0.0;
  for (int64_t t = 0; t < problem.x.rows(); ++t) {
    for (int64_t i = 0; i < 12; ++i) {
      double y = 0.0, y_fp = 0.0, y_quantized = 0.0;
      for (int64_t j = 0; j < 64; ++j) {
        y += static_cast<double>(problem.weight(i, j)) * static_cast<double>(problem.x(t, j));
        y_fp += static_cast<double>(problem.weight(i, j)) * static_cast<double>(problem.x_fp(t, j));
        y_quantized += static_cast<double>(quantized(i, j)) * static_cast<double>(problem.x(t, j));
      }
      asymmetric += (y_quantized - y_fp) * (y_quantized - y_fp);
      constant += (y - y_fp) * (y - y_fp);
      symmetric += (y_quantized - y) * (y_quantized - y);
      scale += y * y;
    }
  }
  // Statistics in f32: 2^-24 on sums whose terms cancel to about a tenth.
  EXPECT_NEAR(solution.relative_error, symmetric / scale, 1e-5);
  EXPECT_NEAR(solution.objective_after, (asymmetric - constant) / scale, 1e-5);
}

TEST_F(SolveTest, LowersTheObjectiveBelowPlainRounding) {
  const test::SolverProblem problem = test::solver_problem(30, 96);
  for (const Grid& grid : {uniform(2), uniform(3), uniform(4), planes(2, true), planes(3, true)}) {
    const LinearSolution gptq = gptq_solver(problem).solve(on_device(problem.weight), grid, 32);
    EXPECT_LT(gptq.objective_after, 0.7 * gptq.objective_before) << grid.bits;
    EXPECT_EQ(gptq.objective_after, gptq.relative_error);  // no asymmetric term
    const LinearSolution symmetric =
        solver(problem, 0.0).solve(on_device(problem.weight), grid, 32);
    const LinearSolution gptaq = solver(problem, 0.25).solve(on_device(problem.weight), grid, 32);
    EXPECT_LT(gptaq.objective_after, gptaq.objective_before) << grid.bits;
    EXPECT_LT(gptaq.objective_after, symmetric.objective_after) << grid.bits;
    EXPECT_EQ(gptaq.objective_before, symmetric.objective_before);
  }
}

TEST_F(SolveTest, WithoutStatisticsEveryWeightIsRounded) {
  const test::SolverProblem problem = test::solver_problem(20, 100);
  InputSetSolver subject(*device_, 100);
  const LinearSolution solution = subject.solve(on_device(problem.weight), uniform(3), 48);
  Matrix<double> identity(100, 100, true);
  for (int64_t i = 0; i < 100; ++i) identity(i, i) = 1.0;
  const test::LiteralGptaq rounding(std::move(identity), Matrix<double>(100, 100, true), 0.0, 0.0,
                                    48);
  const auto verdict = rounding.judge(problem.weight, solution, 1e-5);
  EXPECT_EQ(verdict.wrong_codes, 0);
  EXPECT_EQ(verdict.wrong_scales, 0);
  EXPECT_EQ(solution.objective_after, 0.0);
  EXPECT_FALSE(solution.rounded_only);
}

TEST_F(SolveTest, DeadColumnsBecomeZeroAndTheirWeightsDoNotMatter) {
  test::SolverProblem problem = test::solver_problem(20, 96, {5, 40, 41});
  const LinearSolution solution =
      solver(problem, 0.25).solve(on_device(problem.weight), uniform(2), 32);
  const test::LiteralGptaq literal(test::widen(problem.gram), deviation_of(problem), 0.25, kDamping,
                                   32);
  EXPECT_EQ(literal.judge(problem.weight, solution, kMargin).wrong_codes, 0);
  const Matrix<float> quantized = test::reconstruct(solution);
  for (int64_t i = 0; i < 20; ++i) {
    for (const int64_t column : {5, 40, 41}) {
      EXPECT_EQ(quantized(i, column), 0.0f);
      problem.weight(i, column) = 1e4f;
    }
  }
  const LinearSolution again =
      solver(problem, 0.25).solve(on_device(problem.weight), uniform(2), 32);
  EXPECT_EQ(again.codes, solution.codes);
  EXPECT_EQ(again.params, solution.params);
}

TEST_F(SolveTest, AllColumnsDeadIsAllZero) {
  const test::SolverProblem problem = test::solver_problem(4, 32);
  InputSetSolver subject(*device_, on_device(Matrix<float>(32, 32, true)), Tensor{},
                         SolveOptions{0.25, kDamping}, "test");
  const LinearSolution solution = subject.solve(on_device(problem.weight), uniform(2), 16);
  const Matrix<float> quantized = test::reconstruct(solution);
  for (const float value : quantized.span()) EXPECT_EQ(value, 0.0f);
  EXPECT_EQ(solution.objective_after, 0.0);
}

/// The identity, but for two inputs whose correlation is `a`: its least eigenvalue is 1 − a.
Matrix<float> indefinite_gram(float a) {
  Matrix<float> gram(16, 16, true);
  for (int64_t i = 0; i < 16; ++i) gram(i, i) = 1.0f;
  gram(2, 9) = gram(9, 2) = a;
  return gram;
}

TEST_F(SolveTest, DampsMoreUntilTheFactorisationSucceeds) {
  const test::SolverProblem problem = test::solver_problem(8, 16);
  const auto damping_for = [&](float a, double first) {
    InputSetSolver subject(*device_, on_device(indefinite_gram(a)), Tensor{},
                           SolveOptions{0.0, first}, "test");
    const LinearSolution solution = subject.solve(on_device(problem.weight), uniform(2), 8);
    EXPECT_FALSE(solution.rounded_only);
    return solution.damping;
  };
  EXPECT_DOUBLE_EQ(damping_for(0.5f, 0.01), 0.01);
  EXPECT_DOUBLE_EQ(damping_for(1.05f, 0.01), 0.1);
  EXPECT_DOUBLE_EQ(damping_for(1.5f, 0.01), 1.0);
  EXPECT_DOUBLE_EQ(damping_for(3.0f, 0.01), 10.0);
}

TEST_F(SolveTest, TheLadderStartsAtTheDampingAskedForAndHasFourRungs) {
  const test::SolverProblem problem = test::solver_problem(8, 16);
  // A correlation of 1 + e needs a damping above e.
  const auto solve_from = [&](float a, double first) {
    InputSetSolver subject(*device_, on_device(indefinite_gram(a)), Tensor{},
                           SolveOptions{0.0, first}, "test");
    return subject.solve(on_device(problem.weight), uniform(2), 8);
  };
  for (const double first : {1e-6, 0.02, 0.5, 1.0}) {
    const auto last = static_cast<float>(1000.0 * first);
    const LinearSolution solution = solve_from(1.0f + 0.5f * last, first);
    EXPECT_DOUBLE_EQ(solution.damping, 1000.0 * first);
    EXPECT_FALSE(solution.rounded_only) << first;
    EXPECT_TRUE(solve_from(1.0f + 2.0f * last, first).rounded_only) << first;
  }
}

TEST_F(SolveTest, RoundsPlainlyWhenNoDampingHelps) {
  const test::SolverProblem problem = test::solver_problem(8, 16);
  InputSetSolver subject(*device_, on_device(indefinite_gram(30.0f)), Tensor{},
                         SolveOptions{0.0, kDamping}, "test");
  Grid grid = uniform(2);
  grid.clip_search = false;  // as the baseline of objective_before
  const LinearSolution solution = subject.solve(on_device(problem.weight), grid, 8);
  EXPECT_TRUE(solution.rounded_only);
  EXPECT_DOUBLE_EQ(solution.damping, 10.0);
  EXPECT_EQ(solution.objective_after, solution.objective_before);
  const LinearSolution rounded =
      InputSetSolver(*device_, 16).solve(on_device(problem.weight), grid, 8);
  EXPECT_EQ(solution.codes, rounded.codes);
}

TEST_F(SolveTest, StatisticsThatAreNotFiniteAreAnErrorNamingTheLinear) {
  const test::SolverProblem problem = test::solver_problem(4, 16);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Matrix<float> gram = problem.gram.clone();
    gram(3, 7) = bad;
    D2Q_EXPECT_ERROR(InputSetSolver(*device_, on_device(gram), Tensor{},
                                    SolveOptions{0.0, kDamping}, "block 3 q_proj"),
                     ErrorCode::kNumeric, "block 3 q_proj");
    Matrix<float> cross = problem.cross.clone();
    cross(15, 0) = bad;
    D2Q_EXPECT_ERROR(InputSetSolver(*device_, on_device(problem.gram), on_device(cross),
                                    SolveOptions{0.25, kDamping}, "block 4 o_proj"),
                     ErrorCode::kNumeric, "block 4 o_proj");
  }
}

TEST_F(SolveTest, AGroupWiderThanTheInputIsOneGroup) {
  const test::SolverProblem problem = test::solver_problem(5, 40);
  InputSetSolver subject = solver(problem, 0.25);
  const LinearSolution wide = subject.solve(on_device(problem.weight), uniform(2), 128);
  const LinearSolution exact = subject.solve(on_device(problem.weight), uniform(2), 40);
  EXPECT_EQ(wide.layout.group_size, 40);
  EXPECT_EQ(wide.layout, exact.layout);
  EXPECT_EQ(wide.codes, exact.codes);
}

TEST_F(SolveTest, PackedAndReconstructedWeightsAgree) {
  const test::SolverProblem problem = test::solver_problem(19, 100);
  const LinearSolution solution =
      solver(problem, 0.25).solve(on_device(problem.weight), planes(2, true), 48);
  ASSERT_TRUE(solution.has_column_scale);
  const PackedLinear packed = pack_solution(solution, pool_);
  Matrix<float> dense(19, 100);
  dequantize(packed.view(), dense.span());
  const Matrix<float> quantized = test::reconstruct(solution);
  for (int64_t i = 0; i < 19; ++i) {
    for (int64_t j = 0; j < 100; ++j) {
      const float c = solution.column_scale[static_cast<size_t>(j)];
      EXPECT_GT(c, 0.0f);
      EXPECT_EQ(quantized(i, j), dense(i, j) * c);
    }
  }
}

TEST_F(SolveTest, UnpackingGivesCodesAndParametersBack) {
  // One task of row tiles, and several with a last tile that is not whole.
  for (const int64_t rows : {19, 1999}) {
    LinearSolution solution;
    solution.layout = {PackedKind::kSignPlanes, 3, rows, 100, 48};
    for (int64_t i = 0; i < rows * 100; ++i)
      solution.codes.push_back(static_cast<uint8_t>(i * i % 8));
    for (int64_t i = 0; i < rows * 3 * 3; ++i)
      solution.params.push_back(static_cast<float>(i % 2047));  // exact in fp16
    const PackedLinear packed = pack_solution(solution, pool_);
    const LinearSolution found = unpack_solution(packed.view(), pool_);
    EXPECT_EQ(found.layout, solution.layout);
    EXPECT_EQ(found.codes, solution.codes);
    EXPECT_EQ(found.params, solution.params);
  }
}

TEST_F(SolveTest, TheWeightsOnTheDeviceAreThoseThatWillBeStored) {
  const test::SolverProblem problem = test::solver_problem(19, 100, {3, 77});
  for (const Grid& grid : {uniform(2), uniform(4), planes(2, true), planes(3, false)}) {
    InputSetSolver subject(*device_, on_device(problem.gram), on_device(problem.cross),
                           SolveOptions{0.25, kDamping, grid.kind == GridKind::kSignPlanes, 2},
                           "test");
    const LinearSolution solution = subject.solve(on_device(problem.weight), grid, 48);
    const Matrix<float> stored = test::reconstruct(solution);
    const Matrix<float> weight = to_host<float>(*device_, solution.weight);
    for (int64_t i = 0; i < stored.size(); ++i)
      ASSERT_EQ(weight.data()[i], stored.data()[i]) << i << ", bits " << grid.bits;
  }
}

TEST_F(SolveTest, GivesTheSameBitsOnAnyNumberOfThreads) {
  const test::SolverProblem problem = test::solver_problem(150, 160);
  std::vector<LinearSolution> solutions;
  for (const int n_threads : {1, 3}) {
    ThreadPool pool(n_threads);
    const auto device = make_cpu_device(pool);
    InputSetSolver subject(*device, test::on_device(*device, problem.gram),
                           test::on_device(*device, problem.cross), SolveOptions{0.25, kDamping},
                           "test");
    solutions.push_back(
        subject.solve(test::on_device(*device, problem.weight), planes(2, true), 48));
  }
  EXPECT_EQ(solutions[0].codes, solutions[1].codes);
  EXPECT_EQ(solutions[0].params, solutions[1].params);
  EXPECT_EQ(solutions[0].column_scale, solutions[1].column_scale);
  EXPECT_EQ(solutions[0].objective_after, solutions[1].objective_after);
  EXPECT_EQ(solutions[0].objective_before, solutions[1].objective_before);
}

TEST_F(SolveTest, AWeightOfAnotherWidthIsOurBug) {
  const test::SolverProblem problem = test::solver_problem(4, 32);
  InputSetSolver subject(*device_, 16);
  EXPECT_THROW(subject.solve(on_device(problem.weight), uniform(2), 16), InternalError);
}

}  // namespace
}  // namespace d2q
