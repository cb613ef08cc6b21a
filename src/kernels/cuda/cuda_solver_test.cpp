// The GPU's solver against the CPU's on the same inputs. Both round in f32 but sum in other orders,
// so a code on the edge between two levels may differ, and with it what follows in its row: codes
// are compared by their share, results by the objective that they were chosen for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "base/rng.h"
#include "kernels/device.h"

namespace d2q {
namespace {

/// Host copies of what a walk and a refinement need and give.
struct State {
  std::vector<float> weight;
  std::vector<uint8_t> codes;
  std::vector<float> params;
  std::vector<float> column_scale;
};

struct Problem {
  int64_t rows = 0;
  int64_t n = 0;
  Grid grid;
  std::vector<ColumnGroup> groups;
  std::vector<float> target;
  std::vector<float> hessian;
  std::vector<float> factor;     // upper U, H⁻¹ = Uᵀ U
  std::vector<float> asymmetry;  // strictly upper
  std::vector<float> target_product;

  int64_t n_group_params() const { return static_cast<int64_t>(groups.size()) * grid.n_params(); }
};

/// Covariance of correlated data with a few strong directions, damped; U = R⁻¹ where H = R Rᵀ.
void fill_hessian(Problem& problem, Rng& rng) {
  const int64_t n = problem.n;
  constexpr int64_t kDirections = 24;
  Matrix<double> directions(kDirections, n);
  for (int64_t i = 0; i < directions.size(); ++i) directions.data()[i] = rng.gaussian();
  Matrix<double> h(n, n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 0.5 + rng.uniform() : 0.0;
      for (int64_t d = 0; d < kDirections; ++d)
        sum += directions(d, i) * directions(d, j) / static_cast<double>(d + 1);
      h(i, j) = h(j, i) = static_cast<double>(static_cast<float>(sum));
    }
  }
  Matrix<double> r(n, n, true);  // upper, from the last column on
  for (int64_t j = n - 1; j >= 0; --j) {
    for (int64_t i = j; i >= 0; --i) {
      double sum = h(i, j);
      for (int64_t k = j + 1; k < n; ++k) sum -= r(i, k) * r(j, k);
      r(i, j) = i == j ? std::sqrt(sum) : sum / r(j, j);
    }
  }
  Matrix<double> u(n, n, true);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i >= 0; --i) {
      double sum = i == j ? 1.0 : 0.0;
      for (int64_t k = i + 1; k <= j; ++k) sum -= r(i, k) * u(k, j);
      u(i, j) = sum / r(i, i);
    }
  }
  for (int64_t i = 0; i < n * n; ++i) {
    problem.hessian.push_back(static_cast<float>(h.data()[i]));
    problem.factor.push_back(static_cast<float>(u.data()[i]));
    problem.asymmetry.push_back(i / n < i % n ? static_cast<float>(0.002 * rng.gaussian()) : 0.0f);
  }
}

Problem random_problem(int64_t rows, int64_t n, int64_t group_size, const Grid& grid,
                       uint64_t seed) {
  Rng rng(seed);
  Problem problem;
  problem.rows = rows;
  problem.n = n;
  problem.grid = grid;
  const int64_t n_groups = (n + group_size - 1) / group_size;
  // Stored places in reverse, so that a mix-up of walking and stored order shows.
  for (int64_t g = 0; g < n_groups; ++g) {
    problem.groups.push_back(
        {g * group_size, std::min(group_size, n - g * group_size), n_groups - 1 - g});
  }
  fill_hessian(problem, rng);
  for (int64_t i = 0; i < rows * n; ++i) {
    const double outlier = rng.uniform() < 0.01 ? 4.0 : 1.0;
    problem.target.push_back(static_cast<float>(0.05 * outlier * rng.gaussian()));
  }
  problem.target_product.resize(static_cast<size_t>(rows * n));
  for (int64_t i = 0; i < rows; ++i) {
    std::vector<double> sums(static_cast<size_t>(n), 0.0);
    for (int64_t k = 0; k < n; ++k) {
      const double w = static_cast<double>(problem.target[static_cast<size_t>(i * n + k)]);
      for (int64_t j = 0; j < n; ++j)
        sums[static_cast<size_t>(j)] +=
            w * static_cast<double>(problem.hessian[static_cast<size_t>(k * n + j)]);
    }
    for (int64_t j = 0; j < n; ++j)
      problem.target_product[static_cast<size_t>(i * n + j)] =
          static_cast<float>(sums[static_cast<size_t>(j)]);
  }
  return problem;
}

template <typename T>
Tensor to_device(Device& device, int64_t rows, int64_t cols, const std::vector<T>& values) {
  const Tensor tensor = device.allocate(rows, cols, dtype_of<T>());
  device.upload(values.data(), tensor);
  return tensor;
}

template <typename T>
std::vector<T> to_host(Device& device, const Tensor& tensor) {
  std::vector<T> values(static_cast<size_t>(tensor.size()));
  device.download(tensor, values.data());
  return values;
}

/// Outputs start out poisoned: codes 255, the rest NaN.
State walk_on(Device& device, const Problem& problem, bool with_factor, bool with_asymmetry) {
  const int64_t rows = problem.rows;
  const int64_t n = problem.n;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ColumnWalk walk;
  walk.weight = to_device(device, rows, n, problem.target);
  if (with_factor) walk.inverse_factor = to_device(device, n, n, problem.factor);
  if (with_asymmetry) walk.asymmetry = to_device(device, n, n, problem.asymmetry);
  walk.grid = problem.grid;
  walk.groups = problem.groups;
  walk.codes =
      to_device(device, rows, n, std::vector<uint8_t>(static_cast<size_t>(rows * n), uint8_t{255}));
  const int64_t n_params = problem.n_group_params();
  walk.params = to_device(device, rows, n_params,
                          std::vector<float>(static_cast<size_t>(rows * n_params), nan));
  walk.column_scale = to_device(device, 1, n, std::vector<float>(static_cast<size_t>(n), nan));
  device.solver().column_walk(walk);
  return {to_host<float>(device, walk.weight), to_host<uint8_t>(device, walk.codes),
          to_host<float>(device, walk.params), to_host<float>(device, walk.column_scale)};
}

/// A refinement on one device, started from a walk's result.
class Refiner {
 public:
  Refiner(Device& device, const Problem& problem, const State& state) : device_(device) {
    const int64_t rows = problem.rows;
    const int64_t n = problem.n;
    refinement_.target = to_device(device, rows, n, problem.target);
    refinement_.hessian = to_device(device, n, n, problem.hessian);
    refinement_.target_product = to_device(device, rows, n, problem.target_product);
    refinement_.grid = problem.grid;
    refinement_.groups = problem.groups;
    refinement_.column_scale = to_device(device, 1, n, state.column_scale);
    refinement_.codes = to_device(device, rows, n, state.codes);
    refinement_.params = to_device(device, rows, problem.n_group_params(), state.params);
    refinement_.weight = to_device(device, rows, n, state.weight);
  }
  std::optional<double> refit() { return device_.solver().refit_scales(refinement_); }
  std::optional<double> refine() { return device_.solver().refine_codes(refinement_); }
  std::optional<double> refit_columns() { return device_.solver().refit_column_scale(refinement_); }
  double objective() { return device_.solver().objective(refinement_); }
  State state() {
    return {to_host<float>(device_, refinement_.weight),
            to_host<uint8_t>(device_, refinement_.codes),
            to_host<float>(device_, refinement_.params),
            to_host<float>(device_, refinement_.column_scale)};
  }

 private:
  Device& device_;
  Refinement refinement_;
};

double equal_share(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  size_t equal = 0;
  for (size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i] ? 1u : 0u;
  return static_cast<double>(equal) / static_cast<double>(a.size());
}

/// Σ (ŵ − w*) H (ŵ − w*)ᵀ in f64.
double objective_of(const Problem& problem, const State& state) {
  double total = 0.0;
  std::vector<double> delta(static_cast<size_t>(problem.n));
  for (int64_t i = 0; i < problem.rows; ++i) {
    for (int64_t j = 0; j < problem.n; ++j) {
      const auto place = static_cast<size_t>(i * problem.n + j);
      delta[static_cast<size_t>(j)] =
          static_cast<double>(state.weight[place]) - static_cast<double>(problem.target[place]);
    }
    for (int64_t j = 0; j < problem.n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < problem.n; ++k)
        sum += static_cast<double>(problem.hessian[static_cast<size_t>(j * problem.n + k)]) *
               delta[static_cast<size_t>(k)];
      total += delta[static_cast<size_t>(j)] * sum;
    }
  }
  return total;
}

/// What rounding to f32 may add to an objective that is next to nothing: 1e-6 of J at ŵ = 0.
double noise_of(const Problem& problem) {
  State zero;
  zero.weight.assign(problem.target.size(), 0.0f);
  return 1e-6 * objective_of(problem, zero);
}

void expect_weights_match_codes(const Problem& problem, const State& state) {
  int64_t n_wrong = 0;
  for (int64_t i = 0; i < problem.rows; ++i) {
    for (const ColumnGroup& group : problem.groups) {
      const float* params = state.params.data() + i * problem.n_group_params() +
                            group.index * problem.grid.n_params();
      for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
        const auto place = static_cast<size_t>(i * problem.n + j);
        const int code = state.codes[place];
        double value = 0.0;
        if (problem.grid.kind == GridKind::kUniform) {
          value = static_cast<double>(params[0]) * (code - static_cast<double>(params[1]));
        } else {
          for (int k = 0; k < problem.grid.bits; ++k) {
            const double r = static_cast<double>(params[k]);
            value += (code >> k & 1) != 0 ? r : -r;
          }
        }
        value *= static_cast<double>(state.column_scale[static_cast<size_t>(j)]);
        // Not <=, so that a NaN left over counts.
        const bool close = std::abs(value - static_cast<double>(state.weight[place])) < 1e-6;
        if (!close || code >= 1 << problem.grid.bits) ++n_wrong;
      }
    }
  }
  EXPECT_EQ(n_wrong, 0);
}

class CudaSolver : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      cuda_ = make_cuda_device();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      GTEST_SKIP() << error.what();
    }
    cpu_ = make_cpu_device(pool_);
  }

  /// Walks on both devices and holds the results against each other.
  void compare_walks(const Problem& problem, bool with_factor, bool with_asymmetry) {
    const State a = walk_on(*cpu_, problem, with_factor, with_asymmetry);
    const State b = walk_on(*cuda_, problem, with_factor, with_asymmetry);
    expect_weights_match_codes(problem, b);
    const double share = equal_share(a.codes, b.codes);
    const double cpu = objective_of(problem, a);
    const double cuda = objective_of(problem, b);
    std::cout << label(problem) << " factor " << with_factor << with_asymmetry << ": equal codes "
              << share << ", objective " << cuda / cpu - 1.0 << " off\n";
    // c couples all rows, so that with it one code may move all that follow; and a single row is
    // all but absorbed by it, down to the noise of f32.
    const bool coupled = problem.grid.kind == GridKind::kSignPlanes && problem.grid.column_scale;
    EXPECT_NEAR(cuda, cpu, (coupled ? 0.01 : 0.005) * cpu + noise_of(problem)) << label(problem);
    if (coupled && problem.rows == 1) return;
    EXPECT_GE(share, coupled ? 0.9 : with_factor ? 0.95 : 0.99) << label(problem);
    double distance = 0.0;
    for (size_t j = 0; j < a.column_scale.size(); ++j)
      distance += std::abs(static_cast<double>(b.column_scale[j] / a.column_scale[j]) - 1.0);
    EXPECT_LT(distance, 0.02 * static_cast<double>(problem.n)) << label(problem);
  }

  static std::string label(const Problem& problem) {
    return fmt::format("{} bits {}{}, {}x{}, groups of {}",
                       problem.grid.kind == GridKind::kUniform ? "uniform" : "planes",
                       problem.grid.bits, problem.grid.column_scale ? " with c" : "", problem.rows,
                       problem.n, problem.groups[0].size);
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> cpu_;
  std::unique_ptr<Device> cuda_;
};

const Grid kGrids[] = {
    {GridKind::kSignPlanes, 2, false, false, 15}, {GridKind::kSignPlanes, 2, false, true, 15},
    {GridKind::kSignPlanes, 3, false, false, 15}, {GridKind::kSignPlanes, 3, false, true, 15},
    {GridKind::kUniform, 2, true, false, 15},     {GridKind::kUniform, 3, true, false, 15},
    {GridKind::kUniform, 4, false, false, 15}};

struct Shape {
  int64_t rows;
  int64_t n;
  int64_t group_size;
};
// Ragged last groups, groups below, at and above a block of columns, rows around a warp's and a
// block's; whole groups on aligned columns; more columns than the descent updates at once.
const Shape kShapes[] = {{1, 84, 32},    {17, 180, 32},   {192, 168, 64},
                         {17, 328, 128}, {40, 300, 256},  {1100, 136, 64},
                         {300, 256, 64}, {140, 512, 128}, {30, 700, 100}};

TEST_F(CudaSolver, WalksAsTheCpuDoes) {
  uint64_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const Grid& grid : kGrids) {
      const Problem problem = random_problem(shape.rows, shape.n, shape.group_size, grid, ++seed);
      compare_walks(problem, true, seed % 2 == 0);
    }
  }
}

TEST_F(CudaSolver, RoundsPlainlyAsTheCpuDoes) {
  uint64_t seed = 100;
  for (const Grid& grid : kGrids)
    compare_walks(random_problem(75, 168, 64, grid, ++seed), false, false);
}

TEST_F(CudaSolver, KeepsAColumnAndARowOfZeros) {
  uint64_t seed = 200;
  for (const Grid& grid : kGrids) {
    Problem problem = random_problem(20, 96, 32, grid, ++seed);
    for (int64_t i = 0; i < problem.rows; ++i) problem.target[static_cast<size_t>(i * 96 + 5)] = 0;
    for (int64_t j = 0; j < problem.n; ++j) problem.target[static_cast<size_t>(3 * 96 + j)] = 0;
    compare_walks(problem, false, false);
  }
}

TEST_F(CudaSolver, RefinesAsTheCpuDoesAndNeverRaisesTheObjective) {
  uint64_t seed = 300;
  for (const Shape& shape : kShapes) {
    for (const Grid& grid : kGrids) {
      const Problem problem = random_problem(shape.rows, shape.n, shape.group_size, grid, ++seed);
      const State start = walk_on(*cpu_, problem, true, false);
      Refiner a(*cpu_, problem, start);
      Refiner b(*cuda_, problem, start);
      double last = objective_of(problem, start);
      const double noise = noise_of(problem);
      EXPECT_NEAR(b.objective(), last, 2e-4 * last + noise) << label(problem);
      std::string shares;
      const auto compare = [&](const char* step) {
        const State state = b.state();
        expect_weights_match_codes(problem, state);
        const double now = objective_of(problem, state);
        // Each row accepts only what lowers its own J, judged from sums in f32.
        EXPECT_LE(now, last * (1.0 + 1e-5) + 1e-3 * noise) << step << ", " << label(problem);
        const double cpu = objective_of(problem, a.state());
        EXPECT_NEAR(now, cpu, 0.005 * cpu + noise) << step << ", " << label(problem);
        shares += fmt::format(" {:.4f}", equal_share(a.state().codes, state.codes));
        last = now;
      };
      for (int round = 0; round < 2; ++round) {
        a.refit();
        b.refit();
        compare("refit");
        a.refine();
        b.refine();
        compare("descent");
        if (!grid.column_scale) continue;
        a.refit_columns();
        b.refit_columns();
        compare("column scale");
      }
      std::cout << label(problem) << ": equal codes" << shares << "\n";
      EXPECT_LT(last, objective_of(problem, start)) << label(problem);
    }
  }
}

TEST_F(CudaSolver, RefitsRowsWithMoreUnknownsThanAThreadBlockHasThreads) {
  const Grid grid{GridKind::kSignPlanes, 3, false, false, 15};
  const Problem problem = random_problem(3, 700, 8, grid, 400);  // 264 unknowns
  const State start = walk_on(*cpu_, problem, true, false);
  Refiner a(*cpu_, problem, start);
  Refiner b(*cuda_, problem, start);
  a.refit();
  b.refit();
  const State state = b.state();
  expect_weights_match_codes(problem, state);
  const double cpu = objective_of(problem, a.state());
  EXPECT_NEAR(objective_of(problem, state), cpu, 0.005 * cpu);
  EXPECT_LT(objective_of(problem, state), objective_of(problem, start));
}

TEST_F(CudaSolver, TheOperationsKnowHowTheyChangeTheObjective) {
  for (const Grid& grid : {Grid{GridKind::kSignPlanes, 2, false, true, 15},
                           Grid{GridKind::kSignPlanes, 3, false, false, 15},
                           Grid{GridKind::kUniform, 4, true, false, 15}}) {
    const Problem problem = random_problem(70, 300, 64, grid, 31);
    Refiner refiner(*cuda_, problem, walk_on(*cuda_, problem, true, false));
    double before = refiner.objective();
    const auto expect_change = [&](const std::optional<double>& change, const char* what) {
      const double after = refiner.objective();
      ASSERT_TRUE(change.has_value()) << what;
      EXPECT_NEAR(*change, after - before, 1e-4 * before + noise_of(problem)) << what;
      EXPECT_LE(after, before + noise_of(problem)) << what;
      before = after;
    };
    expect_change(refiner.refit(), "scales");
    for (int round = 0; round < 2; ++round) {
      expect_change(refiner.refine(), "codes");
      if (grid.column_scale) expect_change(refiner.refit_columns(), "column scale");
      expect_change(refiner.refit(), "scales");
    }
  }
}

TEST_F(CudaSolver, GivesTheSameBitsTwice) {
  for (const Grid& grid : kGrids) {
    const Problem problem = random_problem(70, 200, 64, grid, 9);
    State results[2];
    for (State& result : results) {
      Refiner refiner(*cuda_, problem, walk_on(*cuda_, problem, true, true));
      refiner.refit();
      refiner.refine();
      result = refiner.state();
    }
    EXPECT_EQ(results[0].codes, results[1].codes);
    EXPECT_EQ(results[0].params, results[1].params);
    EXPECT_EQ(results[0].weight, results[1].weight);
  }
}

}  // namespace
}  // namespace d2q
