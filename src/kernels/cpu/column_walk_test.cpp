// The column walk against METHOD.md §4 written out literally: one row at a time, one column at a
// time, in f64, with the whole row updated in the order that the page gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/matrix.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_solver.h"
#include "kernels/cpu/sign_planes.h"
#include "kernels/cpu/test_support.h"
#include "kernels/cpu/uniform_grid.h"
#include "kernels/isa.h"

namespace d2q {
namespace {

using test::host_tensor;

struct Problem {
  Tensor weight;
  Tensor factor;
  Tensor asymmetry;
  std::vector<ColumnGroup> groups;
};

/// Upper factor with a positive diagonal near 1 and small random entries above it, P likewise.
Problem random_problem(int64_t rows, int64_t n, const std::vector<int64_t>& group_sizes,
                       uint64_t seed) {
  Rng rng(seed);
  Problem problem{host_tensor(rows, n, DType::kF32),
                  host_tensor(n, n, DType::kF32),
                  host_tensor(n, n, DType::kF32),
                  {}};
  for (int64_t i = 0; i < rows * n; ++i)
    problem.weight.data<float>()[i] = static_cast<float>(rng.gaussian());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      problem.factor.data<float>()[i * n + j] =
          static_cast<float>(i == j  ? 1.0 + 0.2 * rng.uniform()
                             : j > i ? 0.1 * rng.gaussian()
                                     : 0.0);
      problem.asymmetry.data<float>()[i * n + j] =
          static_cast<float>(j > i ? 0.02 * rng.gaussian() : 0.0);
    }
  }
  int64_t begin = 0;
  // Stored places in reverse, so that a mix-up of walking and stored order shows.
  auto index = static_cast<int64_t>(group_sizes.size());
  for (const int64_t size : group_sizes) {
    problem.groups.push_back({begin, size, --index});
    begin += size;
  }
  return problem;
}

ColumnWalk request_for(const Problem& problem, const Grid& grid) {
  const int64_t rows = problem.weight.rows();
  const int64_t n = problem.weight.cols();
  ColumnWalk walk;
  walk.weight = host_tensor(rows, n, DType::kF32);
  std::copy_n(problem.weight.data<float>(), rows * n, walk.weight.data<float>());
  walk.inverse_factor = problem.factor;
  walk.asymmetry = problem.asymmetry;
  walk.grid = grid;
  walk.groups = problem.groups;
  walk.codes = host_tensor(rows, n, DType::kU8);
  walk.params =
      host_tensor(rows, static_cast<int64_t>(problem.groups.size()) * grid.n_params(), DType::kF32);
  walk.column_scale = host_tensor(1, n, DType::kF32);
  return walk;
}

/// Level of a code, from the parameters that the walk returned.
double level(const Grid& grid, const float* params, int code) {
  if (grid.kind == GridKind::kUniform)
    return static_cast<double>(params[0]) * (code - static_cast<double>(params[1]));
  double sum = 0.0;
  for (int p = 0; p < grid.bits; ++p)
    sum += (code >> p & 1) != 0 ? static_cast<double>(params[p]) : -static_cast<double>(params[p]);
  return sum;
}

/// Replays the walk of `result` in f64 with the parameters that it fitted, in blocks of 128
/// columns, and counts codes that are not the nearest level of the replayed weight (beyond a
/// rounding margin).
int64_t count_wrong_codes(const Problem& problem, const ColumnWalk& result, double margin) {
  const int64_t rows = problem.weight.rows();
  const int64_t n = problem.weight.cols();
  const auto u = [&](int64_t i, int64_t j) {
    return static_cast<double>(result.inverse_factor.data<float>()[i * n + j]);
  };
  const auto p = [&](int64_t i, int64_t j) {
    return result.asymmetry.empty()
               ? 0.0
               : static_cast<double>(result.asymmetry.data<float>()[i * n + j]);
  };
  std::vector<ColumnGroup> group_of(static_cast<size_t>(n));
  for (const ColumnGroup& group : problem.groups) {
    for (int64_t j = group.begin; j < group.begin + group.size; ++j)
      group_of[static_cast<size_t>(j)] = group;
  }
  int64_t wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> w(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j)
      w[static_cast<size_t>(j)] = static_cast<double>(problem.weight.data<float>()[row * n + j]);
    for (int64_t block = 0; block < n; block += 128) {
      const int64_t end = std::min(n, block + 128);
      std::vector<double> e(static_cast<size_t>(n), 0.0);
      for (int64_t j = block; j < end; ++j) {
        const float* params = result.params.data<float>() + row * result.params.cols() +
                              group_of[static_cast<size_t>(j)].index * result.grid.n_params();
        const double c = static_cast<double>(result.column_scale.data<float>()[j]);
        const double target = w[static_cast<size_t>(j)];
        const int code = result.codes.data<uint8_t>()[row * n + j];
        const double q = c * level(result.grid, params, code);
        double nearest = HUGE_VAL;
        for (int k = 0; k < 1 << result.grid.bits; ++k)
          nearest = std::min(nearest, std::abs(target - c * level(result.grid, params, k)));
        if (std::abs(target - q) > nearest + margin) ++wrong;
        e[static_cast<size_t>(j)] = (target - q) / u(j, j);
        for (int64_t k = j; k < end; ++k)
          w[static_cast<size_t>(k)] -= e[static_cast<size_t>(j)] * u(j, k) - target * p(j, k);
        EXPECT_NEAR(w[static_cast<size_t>(j)], q, 1e-9);
      }
      for (int64_t k = end; k < n; ++k) {
        for (int64_t j = block; j < end; ++j) {
          w[static_cast<size_t>(k)] -=
              e[static_cast<size_t>(j)] * u(j, k) - w[static_cast<size_t>(j)] * p(j, k);
        }
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      EXPECT_NEAR(result.weight.data<float>()[row * n + j], w[static_cast<size_t>(j)], 1e-5)
          << row << " " << j;
    }
  }
  return wrong;
}

Grid uniform(int bits) { return {GridKind::kUniform, bits, true, false, 15}; }
Grid planes(int bits, bool column_scale) {
  return {GridKind::kSignPlanes, bits, false, column_scale, 15};
}

TEST(ColumnWalk, FollowsTheMethodColumnByColumnOnEveryGrid) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    const auto solver = make_cpu_solver(pool, solver_kernels(isa));
    for (const Grid& grid : {uniform(2), uniform(3), uniform(4), uniform(8), planes(2, true),
                             planes(3, true), planes(2, false)}) {
      // Groups that end with the blocks of 128, so that the literal blocks are the walk's.
      const Problem problem = random_problem(67, 320, {64, 64, 128, 32, 32}, 5);
      const ColumnWalk walk = request_for(problem, grid);
      solver->column_walk(walk);
      // f32 against f64 over 320 columns of size ~1: targets differ by less than 1e-4.
      EXPECT_EQ(count_wrong_codes(problem, walk, 2e-4), 0)
          << name_of(isa) << ", bits " << grid.bits;
    }
  }
}

TEST(ColumnWalk, FitsAGroupOnTheWeightsAsTheyAreWhenItStarts) {
  ThreadPool pool(1);
  const auto solver = make_cpu_solver(pool, kSolverScalar);
  const Problem problem = random_problem(3, 128, {64, 64}, 8);
  const ColumnWalk walk = request_for(problem, uniform(2));
  solver->column_walk(walk);
  const int64_t n = 128;
  for (int64_t row = 0; row < 3; ++row) {
    // The second group's weights after the first group's 64 columns, literally.
    std::vector<double> w(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j)
      w[static_cast<size_t>(j)] = static_cast<double>(problem.weight.data<float>()[row * n + j]);
    for (int64_t j = 0; j < 64; ++j) {
      const double target = w[static_cast<size_t>(j)];
      const double q = static_cast<double>(walk.weight.data<float>()[row * n + j]);
      const double e = (target - q) / static_cast<double>(problem.factor.data<float>()[j * n + j]);
      for (int64_t k = j + 1; k < n; ++k) {
        w[static_cast<size_t>(k)] -=
            e * static_cast<double>(problem.factor.data<float>()[j * n + k]) -
            target * static_cast<double>(problem.asymmetry.data<float>()[j * n + k]);
      }
    }
    std::vector<float> current(64);
    for (size_t k = 0; k < 64; ++k) current[k] = static_cast<float>(w[k + 64]);
    const UniformParams expected = fit_uniform(kSolverScalar, current.data(), 64, 2, true);
    EXPECT_NEAR(walk.params.data<float>()[row * 4 + 0], expected.scale,
                2e-3f * expected.scale);  // fp16 steps
  }
}

TEST(ColumnWalk, WithoutAFactorRoundsEachWeightToItsNearestLevel) {
  ThreadPool pool(1);
  const auto solver = make_cpu_solver(pool, kSolverScalar);
  Problem problem = random_problem(18, 100, {64, 36}, 2);
  problem.factor = Tensor{};
  problem.asymmetry = Tensor{};
  const ColumnWalk walk = request_for(problem, uniform(3));
  solver->column_walk(walk);
  for (int64_t row = 0; row < 18; ++row) {
    for (int64_t j = 0; j < 100; ++j) {
      const float* params = walk.params.data<float>() + row * 4 + (j < 64 ? 1 : 0) * 2;
      const double w = static_cast<double>(problem.weight.data<float>()[row * 100 + j]);
      double nearest = HUGE_VAL;
      for (int k = 0; k < 8; ++k)
        nearest = std::min(nearest, std::abs(w - level(walk.grid, params, k)));
      const int code = walk.codes.data<uint8_t>()[row * 100 + j];
      EXPECT_NEAR(std::abs(w - level(walk.grid, params, code)), nearest, 1e-5);
    }
  }
}

TEST(ColumnWalk, GivesTheSameBitsOnAnyNumberOfThreads) {
  ThreadPool one(1);
  ThreadPool three(3);
  for (const Grid& grid : {uniform(2), planes(2, true), planes(3, true)}) {
    const Problem problem = random_problem(150, 200, {64, 8, 128}, 3);
    const ColumnWalk a = request_for(problem, grid);
    const ColumnWalk b = request_for(problem, grid);
    make_cpu_solver(one, kSolverScalar)->column_walk(a);
    make_cpu_solver(three, kSolverScalar)->column_walk(b);
    EXPECT_TRUE(std::equal(a.codes.data<uint8_t>(), a.codes.data<uint8_t>() + a.codes.size(),
                           b.codes.data<uint8_t>()));
    EXPECT_TRUE(std::equal(a.params.data<float>(), a.params.data<float>() + a.params.size(),
                           b.params.data<float>()));
    EXPECT_TRUE(std::equal(a.weight.data<float>(), a.weight.data<float>() + a.weight.size(),
                           b.weight.data<float>()));
  }
}

TEST(ColumnWalk, RefusesGroupsThatDoNotCoverTheColumns) {
  ThreadPool pool(1);
  Problem problem = random_problem(2, 64, {32, 32}, 1);
  problem.groups.pop_back();
  EXPECT_THROW(make_cpu_solver(pool, kSolverScalar)->column_walk(request_for(problem, uniform(2))),
               InternalError);
}

}  // namespace
}  // namespace d2q
