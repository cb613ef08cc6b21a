#include "quant/solve.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/half.h"
#include "kernels/host_copy.h"

namespace d2q {
namespace {

/// Rungs of the damping ladder: the damping asked for, then each ten times the last.
constexpr int kDampingRungs = 4;
constexpr int64_t kTilesPerTask = 4;

Tensor in_f32(Device& device, const Tensor& matrix) {
  const Tensor rounded = device.allocate(matrix.rows(), matrix.cols(), DType::kF32);
  device.convert(matrix, rounded);
  return rounded;
}

/// `source`'s columns on new memory, 0 where `columns` says -1.
Tensor gathered(Device& device, const Tensor& source, std::span<const int64_t> columns) {
  const Tensor result = device.allocate(source.rows(), source.cols(), source.dtype());
  device.matrices().gather_columns(source, columns, result);
  return result;
}

template <typename T>
std::vector<T> downloaded(Device& device, const Tensor& tensor) {
  D2Q_CHECK(dtype_of<T>() == tensor.dtype(), "tensor holds dtype {}",
            static_cast<int>(tensor.dtype()));
  std::vector<T> values(static_cast<size_t>(tensor.size()));
  device.download(tensor, values.data());
  return values;
}

}  // namespace

struct InputSetSolver::Factorised {
  ColumnOrder order;
  std::vector<int64_t> live_columns;  // order's columns, -1 for inputs that are always 0
  std::vector<int64_t> places;        // stored column's place in walking order
  Tensor factor;                      // U; empty when every rung failed
  Tensor asymmetry;                   // P of §4; empty without a cross term, or when refining
  Tensor hessian;                     // damped; only when refining
  TargetMap target_map;               // empty without a cross term; only when refining
  double damping = 0.0;
};

InputSetSolver::InputSetSolver(Device& device, int64_t n_inputs)
    : device_(device), n_inputs_(n_inputs), dead_(static_cast<size_t>(n_inputs), false) {}

InputSetSolver::InputSetSolver(Device& device, Tensor gram, Tensor cross,
                               const SolveOptions& options, const std::string& subject,
                               StageClock* clock)
    : device_(device),
      n_inputs_(gram.rows()),
      gram_(std::move(gram)),
      deviation_(std::move(cross)),
      options_(options),
      clock_(clock),
      dead_(static_cast<size_t>(n_inputs_), false) {
  D2Q_CHECK(gram_.cols() == n_inputs_, "gram {}x{}", n_inputs_, gram_.cols());
  for (const Tensor& sums : {gram_, deviation_}) {
    if (!sums.empty() && device_.first_non_finite_row(sums) >= 0)
      fail(ErrorCode::kNumeric,
           "{}: the input statistics hold NaN or Inf; the activations overflow", subject);
  }
  for (const float value : device_.matrices().diagonal(gram_)) {
    dead_[diagonal_.size()] = value == 0.0f;
    diagonal_.push_back(value == 0.0f ? 1.0 : static_cast<double>(value));
  }
  if (!deviation_.empty()) device_.matrices().subtract_gram(gram_, deviation_);
}

InputSetSolver::~InputSetSolver() = default;

void InputSetSolver::enter(const char* stage) const {
  if (clock_ != nullptr) clock_->enter(stage);
}

std::vector<double> InputSetSolver::input_energies() const {
  std::vector<double> energies = diagonal_;
  for (size_t j = 0; j < energies.size(); ++j)
    if (dead_[j]) energies[j] = 0.0;
  return energies;
}

const InputSetSolver::Factorised& InputSetSolver::factorised(int64_t group_size) {
  std::unique_ptr<Factorised>& entry = factorised_[group_size];
  if (entry) return *entry;
  entry = std::make_unique<Factorised>();
  entry->order = gram_.empty() ? stored_order(n_inputs_, group_size)
                               : group_aware_order(diagonal_, group_size);
  entry->places.resize(static_cast<size_t>(n_inputs_));
  for (const int64_t column : entry->order.columns) {
    const bool dead = dead_[static_cast<size_t>(column)];
    entry->places[static_cast<size_t>(column)] = static_cast<int64_t>(entry->live_columns.size());
    entry->live_columns.push_back(dead ? -1 : column);
  }
  if (!gram_.empty()) factorise(*entry);
  return *entry;
}

void InputSetSolver::factorise(Factorised& parts) {
  MatrixOps& matrices = device_.matrices();
  const std::vector<int64_t>& columns = parts.order.columns;
  const Tensor permuted = device_.allocate(n_inputs_, n_inputs_, DType::kF64);
  matrices.permute(gram_, columns, permuted);
  matrices.shift_diagonal(permuted, 0.0);
  const Tensor factor = device_.allocate(n_inputs_, n_inputs_, DType::kF64);
  bool factorised = false;
  double damping = options_.damping;
  for (int rung = 0; rung < kDampingRungs && !factorised; ++rung, damping *= 10.0) {
    factorised = matrices.inverse_factor(permuted, damping, factor);
    parts.damping = damping;
  }
  if (!factorised) return;
  parts.factor = in_f32(device_, factor);
  if (options_.refine) {
    double mean_diagonal = 0.0;
    for (const int64_t column : columns)
      mean_diagonal += diagonal_[static_cast<size_t>(column)] / static_cast<double>(n_inputs_);
    matrices.shift_diagonal(permuted, parts.damping * mean_diagonal);
    parts.hessian = in_f32(device_, permuted);
  }
  if (deviation_.empty() || options_.alpha == 0.0) return;
  matrices.permute(deviation_, columns, permuted);  // the Hessian is no longer needed in f64
  if (options_.refine) {
    parts.target_map = matrices.target_map(permuted, factor, options_.alpha);
  } else {
    parts.asymmetry = device_.allocate(n_inputs_, n_inputs_, DType::kF32);
    matrices.asymmetry_matrix(permuted, factor, options_.alpha, parts.asymmetry);
  }
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
                            const Factorised& parts, std::vector<StageObjective>& stages) {
  Refinement refinement;
  refinement.target = target;
  refinement.hessian = parts.hessian;
  refinement.target_product = device_.allocate(target.rows(), target.cols(), DType::kF32);
  device_.matrices().multiply_symmetric(target, parts.hessian, refinement.target_product);
  refinement.grid = walk.grid;
  refinement.groups = walk.groups;
  refinement.column_scale = walk.column_scale;
  refinement.codes = walk.codes;
  refinement.params = walk.params;
  refinement.weight = walk.weight;
  SolverOps& solver = device_.solver();
  const auto record = [&](const char* stage, std::optional<double> change) {
    stages.push_back(
        {stage, change ? stages.back().objective + *change : solver.objective(refinement)});
  };
  record("walk", std::nullopt);
  // A refit moves zeros to where they fit best, which is nowhere in particular.
  const auto refit = [&] {
    if (!middle_zero) record("scales", solver.refit_scales(refinement));
  };
  refit();
  for (int round = 0; round < options_.refine_rounds; ++round) {
    record("codes", solver.refine_codes(refinement));
    if (walk.grid.column_scale) record("column scale", solver.refit_column_scale(refinement));
    refit();
  }
}

InputSetSolver::Walked InputSetSolver::walk(const Tensor& weight, const Request& wanted,
                                            const Factorised& parts) {
  const Grid& grid = wanted.grid;
  const int64_t rows = weight.rows();
  const auto n_groups = static_cast<int64_t>(parts.order.groups.size());
  Walked result;
  ColumnWalk& request = result.walk;
  Tensor& target = result.target;
  request.weight = gathered(device_, weight, parts.live_columns);
  if (!wanted.plain_rounding) {
    request.inverse_factor = parts.factor;
    request.asymmetry = parts.asymmetry;
    if (options_.refine) {
      target = device_.allocate(rows, n_inputs_, DType::kF32);
      if (parts.target_map.empty()) {
        device_.convert(request.weight, target);
      } else {
        // W* of §8.1; the walk then starts from it.
        device_.matrices().apply_target_map(parts.target_map, request.weight, target);
        device_.convert(target, request.weight);
      }
    }
  }
  request.grid = grid;
  request.groups = parts.order.groups;
  request.codes = device_.allocate(rows, n_inputs_, DType::kU8);
  request.params = device_.allocate(rows, n_groups * grid.n_params(), DType::kF32);
  request.column_scale = device_.allocate(1, n_inputs_, DType::kF32);
  device_.solver().column_walk(request);
  if (wanted.middle_zero) centre_zeros(request);
  if (!target.empty()) refine(request, wanted.middle_zero, target, parts, result.stages);
  return result;
}

LinearSolution InputSetSolver::collect(const ColumnWalk& walk, int64_t group_size,
                                       const Factorised& parts) {
  LinearSolution solution;
  const Grid& grid = walk.grid;
  solution.layout.kind =
      grid.kind == GridKind::kUniform ? PackedKind::kUniform : PackedKind::kSignPlanes;
  solution.layout.bits = grid.bits;
  solution.layout.rows = walk.weight.rows();
  solution.layout.cols = n_inputs_;
  solution.layout.group_size = group_size;
  solution.has_column_scale = grid.kind == GridKind::kSignPlanes && grid.column_scale;
  solution.weight = gathered(device_, walk.weight, parts.places);
  solution.params = downloaded<float>(device_, walk.params);
  solution.column_scale =
      downloaded<float>(device_, gathered(device_, walk.column_scale, parts.places));
  return solution;
}

void InputSetSolver::measure(const Tensor& weight, const Tensor& rounded, const Tensor& target,
                             LinearSolution& solution) const {
  const Tensor candidates[] = {rounded, solution.weight};
  const ErrorReport report = device_.matrices().errors(weight, candidates, gram_, deviation_);
  if (!(report.energy > 0.0)) return;
  const auto objective = [&](const WeightErrors& errors) {
    return (errors.symmetric - 2.0 * errors.asymmetric) / report.energy;
  };
  solution.output_energy = report.energy;
  for (StageObjective& stage : solution.stages) stage.objective /= report.energy;
  solution.objective_before = objective(report.errors[0]);
  solution.objective_after = objective(report.errors[1]);
  solution.relative_error = report.errors[1].symmetric / report.energy;
  solution.target_error = solution.relative_error;
  if (target.empty()) return;
  solution.target_error =
      device_.matrices().squared_distance(solution.weight, target, gram_) / report.energy;
}

LinearSolution InputSetSolver::solve(const Tensor& weight, const Grid& grid, int64_t group_size,
                                     bool middle_zero) {
  D2Q_CHECK(weight.cols() == n_inputs_, "{} columns for {} inputs", weight.cols(), n_inputs_);
  const int64_t size = std::min(group_size, n_inputs_);
  enter("factorise");
  const Factorised& parts = factorised(size);
  enter("solve");
  const bool can_solve = !parts.factor.empty();
  // New memory is cleared while the device walks: a GPU would wait for as long as a tenth of it.
  std::future<std::vector<uint8_t>> codes = std::async(
      std::launch::async,
      [n_codes = static_cast<size_t>(weight.size())] { return std::vector<uint8_t>(n_codes); });
  Walked walked = walk(weight, {grid, middle_zero, !can_solve}, parts);
  LinearSolution solution = collect(walked.walk, size, parts);
  const Tensor stored_codes = gathered(device_, walked.walk.codes, parts.places);
  solution.codes = codes.get();
  D2Q_CHECK(static_cast<int64_t>(solution.codes.size()) == stored_codes.size(),
            "room for {} of {} codes", solution.codes.size(), stored_codes.size());
  // Gone before the solution is, should the report fail.
  std::future<void> download = device_.download_beside(stored_codes, solution.codes.data());
  if (gram_.empty()) {
    download.get();
    return solution;
  }
  solution.stages = std::move(walked.stages);
  solution.damping = parts.damping;
  solution.rounded_only = !can_solve;
  enter("report");
  const Grid plain{GridKind::kUniform, grid.bits, false};
  const Walked rounded = walk(weight, {plain, false, true}, parts);
  const Tensor target =
      walked.target.empty() ? Tensor() : gathered(device_, walked.target, parts.places);
  measure(weight, gathered(device_, rounded.walk.weight, parts.places), target, solution);
  download.get();
  return solution;
}

PackedLinear pack_solution(const LinearSolution& solution, ThreadPool& pool) {
  PackedLinear packed;
  packed.layout = solution.layout;
  packed.codes.resize(static_cast<size_t>(codes_bytes(solution.layout)));
  packed.scales.resize(static_cast<size_t>(scales_count(solution.layout)));
  const int64_t n_tiles = solution.layout.n_row_tiles();
  pool.parallel_for((n_tiles + kTilesPerTask - 1) / kTilesPerTask, [&](int64_t task, int) {
    const int64_t first = task * kTilesPerTask;
    pack_tiles(solution.layout, first, std::min(kTilesPerTask, n_tiles - first), solution.codes,
               solution.params, packed.codes, packed.scales);
  });
  return packed;
}

LinearSolution unpack_solution(const PackedView& packed, ThreadPool& pool) {
  const PackedLayout& layout = packed.layout;
  const int64_t n_tiles = layout.n_row_tiles();
  const int64_t n_params = layout.n_groups() * layout.n_params();
  LinearSolution solution;
  solution.layout = layout;
  solution.codes.resize(static_cast<size_t>(layout.rows * layout.cols));
  solution.params.resize(static_cast<size_t>(layout.rows * n_params));
  const auto part = [](auto& values, int64_t begin, int64_t count) {
    return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  };
  pool.parallel_for((n_tiles + kTilesPerTask - 1) / kTilesPerTask, [&](int64_t task, int) {
    // Row tiles lie one after another: some of them are a matrix of their own.
    const int64_t first_tile = task * kTilesPerTask;
    const int64_t tiles = std::min(kTilesPerTask, n_tiles - first_tile);
    const int64_t row = first_tile * kTileRows;
    PackedView slice = packed;
    slice.layout.rows = std::min(tiles * kTileRows, layout.rows - row);
    const int64_t tile_codes = codes_bytes(layout) / n_tiles;
    const int64_t tile_scales = scales_count(layout) / n_tiles;
    slice.codes = part(packed.codes, first_tile * tile_codes, tiles * tile_codes);
    slice.scales = part(packed.scales, first_tile * tile_scales, tiles * tile_scales);
    unpack(slice, part(solution.codes, row * layout.cols, slice.layout.rows * layout.cols),
           part(solution.params, row * n_params, slice.layout.rows * n_params));
  });
  return solution;
}

}  // namespace d2q
