// Scale refit and code descent (METHOD.md §8.3, §8.4) against their definitions in f64.
#include "kernels/cpu/refinement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "kernels/cpu/cpu_solver.h"
#include "kernels/cpu/test_support.h"
#include "kernels/isa.h"

namespace d2q {
namespace {

using test::host_tensor;

struct Problem {
  std::vector<ColumnGroup> groups;
  Refinement refinement;
};

/// A random target and a positive definite H with correlated columns; codes and parameters of a
/// plain rounding of the target.
std::unique_ptr<Problem> random_problem(int64_t rows, const std::vector<int64_t>& sizes,
                                        const Grid& grid, uint64_t seed) {
  auto problem = std::make_unique<Problem>();
  int64_t n = 0;
  auto index = static_cast<int64_t>(sizes.size());
  for (const int64_t size : sizes) {
    problem->groups.push_back({n, size, --index});
    n += size;
  }
  Refinement& r = problem->refinement;
  r.grid = grid;
  r.groups = problem->groups;
  r.target = host_tensor(rows, n, DType::kF32);
  r.hessian = host_tensor(n, n, DType::kF32);
  r.target_product = host_tensor(rows, n, DType::kF32);
  r.column_scale = host_tensor(1, n, DType::kF32);
  r.codes = host_tensor(rows, n, DType::kU8);
  r.params = host_tensor(rows, static_cast<int64_t>(sizes.size()) * grid.n_params(), DType::kF32);
  r.weight = host_tensor(rows, n, DType::kF32);
  Rng rng(seed);
  std::vector<double> x(static_cast<size_t>(n * 2 * n));
  for (int64_t t = 0; t < 2 * n; ++t) {
    const double common = rng.gaussian();
    for (int64_t j = 0; j < n; ++j) x[static_cast<size_t>(t * n + j)] = rng.gaussian() + common;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.1 : 0.0;
      for (int64_t t = 0; t < 2 * n; ++t)
        sum += x[static_cast<size_t>(t * n + i)] * x[static_cast<size_t>(t * n + j)] /
               static_cast<double>(n);
      r.hessian.data<float>()[i * n + j] = static_cast<float>(sum);
    }
  }
  for (int64_t i = 0; i < rows * n; ++i)
    r.target.data<float>()[i] = static_cast<float>(0.05 * rng.gaussian());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < n; ++k) {
        sum += static_cast<double>(r.target.data<float>()[i * n + k]) *
               static_cast<double>(r.hessian.data<float>()[k * n + j]);
      }
      r.target_product.data<float>()[i * n + j] = static_cast<float>(sum);
    }
  }
  ThreadPool pool(1);
  ColumnWalk walk;
  walk.weight = r.weight;
  std::copy_n(r.target.data<float>(), rows * n, r.weight.data<float>());
  walk.grid = grid;
  walk.groups = problem->groups;
  walk.codes = r.codes;
  walk.params = r.params;
  walk.column_scale = r.column_scale;
  make_cpu_solver(pool, kSolverScalar)->column_walk(walk);
  return problem;
}

/// J of one row in f64 from its definition.
double row_objective(const Refinement& r, int64_t row, const std::vector<double>& weights) {
  const int64_t n = r.weight.cols();
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      total += (weights[static_cast<size_t>(i)] -
                static_cast<double>(r.target.data<float>()[row * n + i])) *
               static_cast<double>(r.hessian.data<float>()[i * n + j]) *
               (weights[static_cast<size_t>(j)] -
                static_cast<double>(r.target.data<float>()[row * n + j]));
    }
  }
  return total;
}

std::vector<double> row_weights(const Refinement& r, int64_t row) {
  const float* weights = r.weight.data<float>() + row * r.weight.cols();
  return {weights, weights + r.weight.cols()};
}

double objective(const Refinement& r) {
  double total = 0.0;
  for (int64_t row = 0; row < r.weight.rows(); ++row)
    total += row_objective(r, row, row_weights(r, row));
  return total;
}

/// The weights that codes and parameters stand for.
double weight_of(const Refinement& r, int64_t row, const ColumnGroup& group, int64_t column,
                 int code) {
  const float* params =
      r.params.data<float>() + row * r.params.cols() + group.index * r.grid.n_params();
  if (r.grid.kind == GridKind::kUniform)
    return static_cast<double>(params[0]) * (code - static_cast<double>(params[1]));
  double level = 0.0;
  for (int k = 0; k < r.grid.bits; ++k)
    level +=
        (code >> k & 1) != 0 ? static_cast<double>(params[k]) : -static_cast<double>(params[k]);
  return static_cast<double>(r.column_scale.data<float>()[column]) * level;
}

void expect_weights_match_codes(const Refinement& r) {
  for (int64_t row = 0; row < r.weight.rows(); ++row) {
    for (const ColumnGroup& group : r.groups) {
      for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
        const int64_t place = row * r.weight.cols() + j;
        EXPECT_NEAR(r.weight.data<float>()[place],
                    weight_of(r, row, group, j, r.codes.data<uint8_t>()[place]), 1e-6);
      }
    }
  }
}

const Grid kGrids[] = {{GridKind::kSignPlanes, 2, false, false, 15},
                       {GridKind::kSignPlanes, 2, false, true, 15},
                       {GridKind::kSignPlanes, 3, false, true, 15},
                       {GridKind::kUniform, 2, true, false, 15},
                       {GridKind::kUniform, 4, true, false, 15}};

TEST(Refinement, RefitAndDescentNeverRaiseTheObjectiveAndKeepWeightsAndCodesTogether) {
  ThreadPool pool(2);
  for (const Isa isa : available_isas()) {
    const auto solver = make_cpu_solver(pool, solver_kernels(isa));
    for (const Grid& grid : kGrids) {
      const auto problem = random_problem(37, {32, 20, 16}, grid, 4);
      const Refinement& r = problem->refinement;
      double last = objective(r);
      const double first = last;
      EXPECT_NEAR(solver->objective(r), last, 1e-4 * last);
      for (int round = 0; round < 4; ++round) {
        solver->refit_scales(r);
        double now = objective(r);
        // Each row accepts only what lowers its own J, judged from f32 normal equations.
        EXPECT_LE(now, last * (1.0 + 1e-5))
            << name_of(isa) << " refit " << round << ", bits " << grid.bits;
        expect_weights_match_codes(r);
        last = now;
        solver->refine_codes(r);
        now = objective(r);
        EXPECT_LE(now, last * (1.0 + 1e-5))
            << name_of(isa) << " descent " << round << ", bits " << grid.bits;
        expect_weights_match_codes(r);
        last = now;
      }
      EXPECT_LT(last, 0.9 * first) << "bits " << grid.bits;
    }
  }
}

TEST(Refinement, ColumnScaleRefitLowersTheObjectiveToItsLeastSquares) {
  ThreadPool pool(2);
  const auto solver = make_cpu_solver(pool, kSolverScalar);
  for (const Grid& grid : kGrids) {
    if (!grid.column_scale) continue;
    const auto problem = random_problem(41, {32, 20, 16}, grid, 7);
    const Refinement& r = problem->refinement;
    solver->refit_scales(r);
    const double before = objective(r);
    solver->refit_column_scale(r);
    expect_weights_match_codes(r);
    const double after = objective(r);
    EXPECT_LT(after, before);
    // J is stationary in every c_j: its central difference is far below what c_j weighs.
    const int64_t rows = r.weight.rows();
    const int64_t n = r.weight.cols();
    for (int64_t j = 0; j < n; ++j) {
      const float kept = r.column_scale.data<float>()[j];
      double moved[2];
      for (const int side : {0, 1}) {
        const float factor = side == 0 ? 0.99f : 1.01f;
        moved[side] = 0.0;
        for (int64_t i = 0; i < rows; ++i) {
          std::vector<double> weights = row_weights(r, i);
          weights[static_cast<size_t>(j)] *= static_cast<double>(factor);
          moved[side] += row_objective(r, i, weights);
        }
        EXPECT_GE(moved[side], after * (1.0 - 1e-5)) << "column " << j << ", c " << kept;
      }
    }
  }
}

TEST(Refinement, RefitReachesTheLeastSquaresSolution) {
  ThreadPool pool(1);
  const auto solver = make_cpu_solver(pool, kSolverScalar);
  for (const Grid& grid : kGrids) {
    const auto problem = random_problem(5, {24, 16}, grid, 9);
    const Refinement& r = problem->refinement;
    solver->refit_scales(r);
    const double best = objective(r);
    // No single parameter can be moved to a J that is lower by more than fp16's rounding allows.
    for (int64_t row = 0; row < r.weight.rows(); ++row) {
      for (const ColumnGroup& group : r.groups) {
        for (int k = 0; k < grid.n_params(); ++k) {
          float& param =
              r.params.data<float>()[row * r.params.cols() + group.index * grid.n_params() + k];
          const float kept = param;
          for (const float factor : {0.98f, 1.02f}) {
            param = kept * factor;
            std::vector<double> weights = row_weights(r, row);
            for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
              weights[static_cast<size_t>(j)] =
                  weight_of(r, row, group, j, r.codes.data<uint8_t>()[row * r.weight.cols() + j]);
            }
            EXPECT_GE(row_objective(r, row, weights),
                      row_objective(r, row, row_weights(r, row)) - 1e-4 * best)
                << "bits " << grid.bits << " kind " << static_cast<int>(grid.kind) << " row " << row
                << " group " << group.index << " k " << k << " " << factor << " param " << kept;
          }
          param = kept;
        }
      }
    }
  }
}

TEST(Refinement, DescentEndsWhereNoSingleCodeCanBeImproved) {
  ThreadPool pool(2);
  const auto solver = make_cpu_solver(pool, kSolverScalar);
  for (const Grid& grid : kGrids) {
    const auto problem = random_problem(6, {20, 12}, grid, 2);
    const Refinement& r = problem->refinement;
    for (int sweep = 0; sweep < 50; ++sweep) solver->refine_codes(r);
    for (int64_t row = 0; row < r.weight.rows(); ++row) {
      const double now = row_objective(r, row, row_weights(r, row));
      for (const ColumnGroup& group : r.groups) {
        for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
          for (int code = 0; code < 1 << grid.bits; ++code) {
            std::vector<double> weights = row_weights(r, row);
            weights[static_cast<size_t>(j)] = weight_of(r, row, group, j, code);
            EXPECT_GE(row_objective(r, row, weights), now * (1.0 - 1e-5));
          }
        }
      }
    }
  }
}

TEST(Refinement, GivesTheSameBitsOnAnyNumberOfThreads) {
  ThreadPool one(1);
  ThreadPool three(3);
  for (const Grid& grid : kGrids) {
    const auto a = random_problem(150, {64, 24}, grid, 6);
    const auto b = random_problem(150, {64, 24}, grid, 6);
    for (const auto& [problem, pool] : {std::pair{a.get(), &one}, std::pair{b.get(), &three}}) {
      const auto solver = make_cpu_solver(*pool, kSolverScalar);
      solver->refit_scales(problem->refinement);
      solver->refine_codes(problem->refinement);
    }
    const Refinement& x = a->refinement;
    const Refinement& y = b->refinement;
    EXPECT_TRUE(std::equal(x.codes.data<uint8_t>(), x.codes.data<uint8_t>() + x.codes.size(),
                           y.codes.data<uint8_t>()));
    EXPECT_TRUE(std::equal(x.params.data<float>(), x.params.data<float>() + x.params.size(),
                           y.params.data<float>()));
  }
}

}  // namespace
}  // namespace d2q
