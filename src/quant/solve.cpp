#include "quant/solve.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "kernels/host_copy.h"
#include "linalg/inverse_factor.h"
#include "linalg/quadratic_form.h"

namespace d2q {
namespace {

/// Rungs of the damping ladder: the damping asked for, then each ten times the last.
constexpr int kDampingRungs = 4;

Matrix<float> difference(const Matrix<float>& a, const Matrix<float>& b) {
  Matrix<float> result(a.rows(), a.cols());
  for (int64_t i = 0; i < a.size(); ++i) result.data()[i] = a.data()[i] - b.data()[i];
  return result;
}

}  // namespace

struct InputSetSolver::Factorised {
  ColumnOrder order;
  Tensor factor;     // U; empty when every rung failed
  Tensor asymmetry;  // P of §4; empty without a cross term, or when refining
  Tensor hessian;    // damped; only when refining
  Tensor
      target_map;  // transpose of α D Hd⁻¹ of §8.1; empty without a cross term; only when refining
  double damping = 0.0;
};

InputSetSolver::InputSetSolver(Device& device, ThreadPool& pool, int64_t n_inputs)
    : device_(device),
      pool_(pool),
      n_inputs_(n_inputs),
      dead_(static_cast<size_t>(n_inputs), false) {}

InputSetSolver::InputSetSolver(Device& device, ThreadPool& pool, Matrix<float> gram,
                               Matrix<float> cross, const SolveOptions& options,
                               const std::string& subject)
    : device_(device),
      pool_(pool),
      n_inputs_(gram.rows()),
      gram_(std::move(gram)),
      options_(options),
      dead_(static_cast<size_t>(n_inputs_), false) {
  D2Q_CHECK(gram_.cols() == n_inputs_, "gram {}x{}", n_inputs_, gram_.cols());
  for (const Matrix<float>* sums : {&gram_, &cross}) {
    for (const float value : sums->span()) {
      if (!std::isfinite(value))
        fail(ErrorCode::kNumeric,
             "{}: the input statistics hold NaN or Inf; the activations overflow", subject);
    }
  }
  for (int64_t j = 0; j < n_inputs_; ++j) dead_[static_cast<size_t>(j)] = gram_(j, j) == 0.0f;
  if (cross.empty()) return;
  for (int64_t i = 0; i < cross.size(); ++i) cross.data()[i] -= gram_.data()[i];
  for (int64_t j = 0; j < n_inputs_; ++j) {
    if (!dead_[static_cast<size_t>(j)]) continue;
    for (int64_t i = 0; i < n_inputs_; ++i) cross(i, j) = 0.0f;
  }
  deviation_ = std::move(cross);
}

InputSetSolver::~InputSetSolver() = default;

const InputSetSolver::Factorised& InputSetSolver::factorised(int64_t group_size) {
  std::unique_ptr<Factorised>& entry = factorised_[group_size];
  if (entry) return *entry;
  entry = std::make_unique<Factorised>();
  if (gram_.empty()) {
    entry->order = stored_order(n_inputs_, group_size);
    return *entry;
  }
  std::vector<double> diagonal(static_cast<size_t>(n_inputs_));
  for (int64_t j = 0; j < n_inputs_; ++j) {
    diagonal[static_cast<size_t>(j)] =
        dead_[static_cast<size_t>(j)] ? 1.0 : static_cast<double>(gram_(j, j));
  }
  entry->order = group_aware_order(diagonal, group_size);
  const std::vector<int64_t>& columns = entry->order.columns;
  Matrix<double> hessian(n_inputs_, n_inputs_);
  for (int64_t i = 0; i < n_inputs_; ++i) {
    const float* row = gram_.row(columns[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < n_inputs_; ++j)
      hessian(i, j) = static_cast<double>(row[columns[static_cast<size_t>(j)]]);
    hessian(i, i) = diagonal[static_cast<size_t>(columns[static_cast<size_t>(i)])];
  }
  std::optional<Matrix<double>> factor;
  double damping = options_.damping;
  for (int rung = 0; rung < kDampingRungs && !factor; ++rung, damping *= 10.0) {
    factor = inverse_factor(hessian, damping);
    entry->damping = damping;
  }
  if (!factor) return *entry;
  entry->factor = to_device(device_, *factor);
  if (options_.refine) {
    double mean_diagonal = 0.0;
    for (int64_t j = 0; j < n_inputs_; ++j)
      mean_diagonal += hessian(j, j) / static_cast<double>(n_inputs_);
    for (int64_t j = 0; j < n_inputs_; ++j) hessian(j, j) += entry->damping * mean_diagonal;
    entry->hessian = to_device(device_, hessian);
  }
  if (deviation_.empty() || options_.alpha == 0.0) return *entry;
  Matrix<double>& permuted = hessian;  // no longer needed as itself
  for (int64_t i = 0; i < n_inputs_; ++i) {
    const float* row = deviation_.row(columns[static_cast<size_t>(i)]);
    for (int64_t j = 0; j < n_inputs_; ++j)
      permuted(i, j) = static_cast<double>(row[columns[static_cast<size_t>(j)]]);
  }
  if (!options_.refine) {
    entry->asymmetry =
        to_device(device_, asymmetry_matrix(permuted, *factor, options_.alpha, pool_));
    return *entry;
  }
  const Matrix<double> map = asymmetric_target_map(permuted, *factor, options_.alpha, pool_);
  for (int64_t i = 0; i < n_inputs_; ++i) {
    for (int64_t j = 0; j < n_inputs_; ++j) permuted(j, i) = map(i, j);
  }
  entry->target_map = to_device(device_, permuted);
  return *entry;
}

/// Groups whose zero is 0 or 3 get 1 or 2 and the scale that still reaches their farthest level;
/// codes go to the nearest level. Groups of weights around 0 have such a zero already.
void InputSetSolver::centre_zeros(const ColumnWalk& walk) {
  D2Q_CHECK(walk.grid.kind == GridKind::kUniform && walk.grid.bits == 2, "a grid of {} bits",
            walk.grid.bits);
  Matrix<float> params = to_host<float>(device_, walk.params);
  Matrix<uint8_t> codes = to_host<uint8_t>(device_, walk.codes);
  Matrix<float> weight = to_host<float>(device_, walk.weight);
  for (int64_t i = 0; i < weight.rows(); ++i) {
    for (const ColumnGroup& group : walk.groups) {
      float& scale = params(i, group.index * 2);
      float& zero = params(i, group.index * 2 + 1);
      if (zero == 1.0f || zero == 2.0f) continue;
      zero = zero < 1.0f ? 1.0f : 2.0f;
      scale = to_float(to_half(1.5f * scale));
      for (int64_t j = group.begin; j < group.begin + group.size; ++j) {
        const float code = std::clamp(std::nearbyint(weight(i, j) / scale) + zero, 0.0f, 3.0f);
        codes(i, j) = static_cast<uint8_t>(code);
        weight(i, j) = scale * (code - zero);
      }
    }
  }
  device_.upload(params.data(), walk.params);
  device_.upload(codes.data(), walk.codes);
  device_.upload(weight.data(), walk.weight);
}

void InputSetSolver::refine(const ColumnWalk& walk, bool middle_zero, const Tensor& target,
                            const Factorised& parts, LinearSolution& solution) {
  Refinement refinement;
  refinement.target = target;
  refinement.hessian = parts.hessian;
  refinement.target_product = device_.allocate(target.rows(), target.cols(), DType::kF32);
  device_.linear(target, parts.hessian, Tensor{}, refinement.target_product);  // H is symmetric
  refinement.grid = walk.grid;
  refinement.groups = walk.groups;
  refinement.column_scale = walk.column_scale;
  refinement.codes = walk.codes;
  refinement.params = walk.params;
  refinement.weight = walk.weight;
  SolverOps& solver = device_.solver();
  const auto record = [&](const char* stage) {
    solution.stages.push_back({stage, solver.objective(refinement)});
  };
  record("walk");
  // A refit moves zeros to where they fit best, which is nowhere in particular.
  const auto refit = [&] {
    if (middle_zero) return;
    solver.refit_scales(refinement);
    record("scales");
  };
  refit();
  for (int round = 0; round < options_.refine_rounds; ++round) {
    solver.refine_codes(refinement);
    record("codes");
    if (walk.grid.column_scale) {
      solver.refit_column_scale(refinement);
      record("column scale");
    }
    refit();
  }
}

LinearSolution InputSetSolver::walk(const Matrix<float>& weight, const Request& wanted,
                                    const Factorised& parts) {
  const Grid& grid = wanted.grid;
  const ColumnOrder& order = parts.order;
  const int64_t rows = weight.rows();
  const int64_t n = weight.cols();
  const auto n_groups = static_cast<int64_t>(order.groups.size());
  Matrix<float> permuted(rows, n);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t column = order.columns[static_cast<size_t>(j)];
      permuted(i, j) = dead_[static_cast<size_t>(column)] ? 0.0f : weight(i, column);
    }
  }
  ColumnWalk request;
  request.weight = to_device(device_, permuted);
  Tensor target;
  if (!wanted.plain_rounding) {
    request.inverse_factor = parts.factor;
    request.asymmetry = parts.asymmetry;
    if (options_.refine) {
      target = device_.allocate(rows, n, DType::kF32);
      device_.convert(request.weight, target);
      if (!parts.target_map.empty()) {
        // W* = W + W·map, §8.1; the walk then starts from it.
        device_.linear(request.weight, parts.target_map, Tensor{}, target);
        device_.add(target, request.weight);
        device_.convert(target, request.weight);
      }
    }
  }
  request.grid = grid;
  request.groups = order.groups;
  request.codes = device_.allocate(rows, n, DType::kU8);
  request.params = device_.allocate(rows, n_groups * grid.n_params(), DType::kF32);
  request.column_scale = device_.allocate(1, n, DType::kF32);
  device_.solver().column_walk(request);
  if (wanted.middle_zero) centre_zeros(request);

  LinearSolution solution;
  if (!target.empty()) refine(request, wanted.middle_zero, target, parts, solution);
  solution.layout.kind =
      grid.kind == GridKind::kUniform ? PackedKind::kUniform : PackedKind::kSignPlanes;
  solution.layout.bits = grid.bits;
  solution.layout.rows = rows;
  solution.layout.cols = n;
  solution.layout.group_size = wanted.group_size;
  solution.has_column_scale = grid.kind == GridKind::kSignPlanes && grid.column_scale;
  solution.codes.resize(static_cast<size_t>(rows * n));
  solution.params.resize(static_cast<size_t>(request.params.size()));
  solution.column_scale.resize(static_cast<size_t>(n));
  std::vector<uint8_t> codes(static_cast<size_t>(rows * n));
  std::vector<float> column_scale(static_cast<size_t>(n));
  device_.download(request.codes, codes.data());
  device_.download(request.params, solution.params.data());
  device_.download(request.column_scale, column_scale.data());
  for (int64_t j = 0; j < n; ++j) {
    const int64_t column = order.columns[static_cast<size_t>(j)];
    solution.column_scale[static_cast<size_t>(column)] = column_scale[static_cast<size_t>(j)];
    for (int64_t i = 0; i < rows; ++i) {
      solution.codes[static_cast<size_t>(i * n + column)] = codes[static_cast<size_t>(i * n + j)];
    }
  }
  return solution;
}

void InputSetSolver::measure(const Matrix<float>& weight, const LinearSolution& rounded,
                             LinearSolution& solution) const {
  const double scale = quadratic_form(weight, gram_, weight, pool_);
  if (!(scale > 0.0)) return;
  const auto objective = [&](const LinearSolution& candidate, double* symmetric) {
    const Matrix<float> delta = difference(reconstruct(candidate), weight);
    const double quadratic = quadratic_form(delta, gram_, delta, pool_);
    const double linear =
        deviation_.empty() ? 0.0 : quadratic_form(delta, deviation_, weight, pool_);
    if (symmetric != nullptr) *symmetric = quadratic / scale;
    return (quadratic - 2.0 * linear) / scale;
  };
  solution.output_energy = scale;
  for (StageObjective& stage : solution.stages) stage.objective /= scale;
  solution.objective_before = objective(rounded, nullptr);
  solution.objective_after = objective(solution, &solution.relative_error);
}

LinearSolution InputSetSolver::solve(const Matrix<float>& weight, const Grid& grid,
                                     int64_t group_size, bool middle_zero) {
  D2Q_CHECK(weight.cols() == n_inputs_, "{} columns for {} inputs", weight.cols(), n_inputs_);
  const int64_t size = std::min(group_size, n_inputs_);
  const Factorised& parts = factorised(size);
  if (gram_.empty()) return walk(weight, {grid, size, middle_zero, true}, parts);
  const Grid plain{GridKind::kUniform, grid.bits, false};
  const LinearSolution rounded = walk(weight, {plain, size, false, true}, parts);
  const bool can_solve = !parts.factor.empty();
  LinearSolution solution = walk(weight, {grid, size, middle_zero, !can_solve}, parts);
  solution.damping = parts.damping;
  solution.rounded_only = !can_solve;
  measure(weight, rounded, solution);
  return solution;
}

PackedLinear pack_solution(const LinearSolution& solution) {
  PackedLinear packed;
  packed.layout = solution.layout;
  packed.codes.resize(static_cast<size_t>(codes_bytes(solution.layout)));
  packed.scales.resize(static_cast<size_t>(scales_count(solution.layout)));
  pack(solution.layout, solution.codes, solution.params, packed.codes, packed.scales);
  return packed;
}

Matrix<float> reconstruct(const LinearSolution& solution) {
  const PackedLinear packed = pack_solution(solution);
  Matrix<float> weights(solution.layout.rows, solution.layout.cols);
  dequantize(packed.view(), weights.span());
  for (int64_t i = 0; i < weights.rows(); ++i) {
    for (int64_t j = 0; j < weights.cols(); ++j)
      weights(i, j) *= solution.column_scale[static_cast<size_t>(j)];
  }
  return weights;
}

}  // namespace d2q
