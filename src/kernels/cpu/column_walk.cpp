// METHOD.md §4: the walk over columns. Rows are independent but for the column scale of §5.2, so a
// block of columns is: fit its groups, walk it in row tasks, update what is to its right by GEMM.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "kernels/cpu/column_scale_refit.h"
#include "kernels/cpu/cpu_solver.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lane_grid.h"
#include "kernels/cpu/refinement.h"
#include "kernels/cpu/sign_planes.h"
#include "kernels/cpu/uniform_grid.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kBlockColumns = 128;
constexpr int64_t kRowsPerTask = 64;
constexpr int64_t kLanes = kSolverLanes;  // rows walked together

/// Columns [begin, end), every group boundary at or between blocks where groups fit in one: a group
/// is fitted on current weights only if no unfinished block's columns reach into it.
struct WalkBlock {
  int64_t begin;
  int64_t end;
};

std::vector<WalkBlock> cut_blocks(std::span<const ColumnGroup> groups) {
  std::vector<WalkBlock> blocks;
  for (const ColumnGroup& group : groups) {
    const bool joins = !blocks.empty() && blocks.back().end == group.begin &&
                       group.begin + group.size - blocks.back().begin <= kBlockColumns;
    if (joins) {
      blocks.back().end = group.begin + group.size;
      continue;
    }
    for (int64_t begin = group.begin; begin < group.begin + group.size; begin += kBlockColumns) {
      blocks.push_back({begin, std::min(begin + kBlockColumns, group.begin + group.size)});
    }
  }
  return blocks;
}

class CpuSolver final : public SolverOps {
 public:
  CpuSolver(ThreadPool& pool, const SolverKernels& kernels) : pool_(pool), kernels_(kernels) {}

  void column_walk(const ColumnWalk& walk) override;
  std::optional<double> refit_scales(const Refinement& refinement) override {
    refit_scales_cpu(refinement, kernels_, pool_);
    return std::nullopt;
  }
  std::optional<double> refine_codes(const Refinement& refinement) override {
    refine_codes_cpu(refinement, kernels_, pool_);
    return std::nullopt;
  }
  std::optional<double> refit_column_scale(const Refinement& refinement) override {
    refit_column_scale_cpu(refinement, pool_);
    return std::nullopt;
  }
  double objective(const Refinement& refinement) override {
    return refinement_objective_cpu(refinement, pool_);
  }

 private:
  void fit_group(const ColumnWalk& walk, const ColumnGroup& group);
  void walk_block(const ColumnWalk& walk, const WalkBlock& block);

  ThreadPool& pool_;
  const SolverKernels& kernels_;
};

int64_t n_row_tasks(const ColumnWalk& walk) {
  return (walk.weight.rows() + kRowsPerTask - 1) / kRowsPerTask;
}

void CpuSolver::fit_group(const ColumnWalk& walk, const ColumnGroup& group) {
  const int64_t rows = walk.weight.rows();
  const int64_t stride = walk.weight.cols();
  const float* data = walk.weight.data<float>() + group.begin;
  const int n_params = walk.grid.n_params();
  float* params = walk.params.data<float>() + group.index * n_params;
  const int64_t params_stride = walk.params.cols();
  float* c = walk.column_scale.data<float>() + group.begin;
  if (walk.grid.kind == GridKind::kSignPlanes) {
    std::vector<float> r(static_cast<size_t>(rows * n_params));
    fit_sign_planes(kernels_, {data, rows, group.size, stride}, walk.grid.bits,
                    walk.grid.fit_iterations, walk.grid.column_scale, r,
                    {c, static_cast<size_t>(group.size)}, pool_);
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(r.data() + i * n_params, n_params, params + i * params_stride);
    return;
  }
  std::fill(c, c + group.size, 1.0f);
  pool_.parallel_for(n_row_tasks(walk), [&](int64_t task, int) {
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t i = task * kRowsPerTask; i < end; ++i) {
      const UniformParams fit = fit_uniform(kernels_, data + i * stride, group.size, walk.grid.bits,
                                            walk.grid.clip_search);
      params[i * params_stride] = fit.scale;
      params[i * params_stride + 1] = fit.zero;
    }
  });
}

/// Walks the columns of one part of a block, [begin, end) within a single group, in row tasks.
/// `negated_errors` and `finished` [rows, width] keep −e and the block's final columns for the
/// trailing update.
struct BlockWalker {
  const SolverKernels& kernels;
  const ColumnWalk& walk;
  const WalkBlock& block;
  Matrix<float>& negated_errors;
  Matrix<float>& finished;

  void run(ThreadPool& pool, const ColumnGroup& group, int64_t begin, int64_t end) const {
    pool.parallel_for(n_row_tasks(walk), [&](int64_t task, int) {
      const int64_t last = std::min(walk.weight.rows(), (task + 1) * kRowsPerTask);
      for (int64_t row = task * kRowsPerTask; row < last; row += kLanes) {
        walk_lanes(group, begin, end, row, std::min(kLanes, last - row));
      }
    });
  }

  void walk_lanes(const ColumnGroup& group, int64_t begin, int64_t end, int64_t row,
                  int64_t n_rows) const {
    const int64_t n = walk.weight.cols();
    const int64_t width = block.end - begin;  // columns still touched inside the block
    float* weight = walk.weight.data<float>();
    uint8_t* codes = walk.codes.data<uint8_t>();
    alignas(64) float columns[kBlockColumns][kLanes];
    alignas(64) float column_codes[kBlockColumns][kLanes];
    alignas(64) float column_errors[kBlockColumns][kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float* source = weight + (row + std::min(lane, n_rows - 1)) * n + begin;
      for (int64_t k = 0; k < width; ++k) columns[k][lane] = source[k];
    }
    WalkLanes lanes{};
    lanes.columns = columns[0];
    lanes.n_columns = end - begin;
    lanes.width = width;
    lanes.stride = n;
    if (!walk.inverse_factor.empty())
      lanes.factor = walk.inverse_factor.data<float>() + begin * n + begin;
    if (!walk.asymmetry.empty()) lanes.asymmetry = walk.asymmetry.data<float>() + begin * n + begin;
    lanes.grid.column_scale = walk.column_scale.data<float>() + begin;
    lanes.codes = column_codes[0];
    lanes.errors = column_errors[0];
    load_lane_grid(
        walk.grid,
        walk.params.data<float>() + row * walk.params.cols() + group.index * walk.grid.n_params(),
        walk.params.cols(), n_rows, lanes.grid);
    kernels.walk(lanes);
    for (int64_t lane = 0; lane < n_rows; ++lane) {
      float* target = weight + (row + lane) * n + begin;
      for (int64_t k = 0; k < width; ++k) target[k] = columns[k][lane];
      for (int64_t k = 0; k < end - begin; ++k) {
        codes[(row + lane) * n + begin + k] = static_cast<uint8_t>(column_codes[k][lane]);
        negated_errors(row + lane, begin - block.begin + k) = -column_errors[k][lane];
        finished(row + lane, begin - block.begin + k) = columns[k][lane];
      }
    }
  }
};

void CpuSolver::walk_block(const ColumnWalk& walk, const WalkBlock& block) {
  const int64_t rows = walk.weight.rows();
  const int64_t n = walk.weight.cols();
  Matrix<float> negated_errors(rows, block.end - block.begin);
  Matrix<float> finished(rows, block.end - block.begin);
  const BlockWalker walker{kernels_, walk, block, negated_errors, finished};
  for (const ColumnGroup& group : walk.groups) {
    const int64_t begin = std::max(group.begin, block.begin);
    const int64_t end = std::min(group.begin + group.size, block.end);
    if (begin >= end) continue;
    if (begin == group.begin) fit_group(walk, group);
    walker.run(pool_, group, begin, end);
  }
  const int64_t rest = n - block.end;
  if (walk.inverse_factor.empty() || rest == 0) return;
  pool_.parallel_for(n_row_tasks(walk), [&](int64_t task, int) {
    const int64_t row = task * kRowsPerTask;
    const int64_t m = std::min(kRowsPerTask, rows - row);
    const int64_t k = block.end - block.begin;
    const auto trailing = [&](const Matrix<float>& left, const Tensor& right) {
      gemm_f32(false, false, m, rest, k, left.row(row), k,
               right.data<float>() + block.begin * n + block.end, n, 1.0f,
               walk.weight.data<float>() + row * n + block.end, n);
    };
    trailing(negated_errors, walk.inverse_factor);
    if (!walk.asymmetry.empty()) trailing(finished, walk.asymmetry);
  });
}

void CpuSolver::column_walk(const ColumnWalk& walk) {
  check_column_walk(walk);
  for (const WalkBlock& block : cut_blocks(walk.groups)) walk_block(walk, block);
}

}  // namespace

std::unique_ptr<SolverOps> make_cpu_solver(ThreadPool& pool, const SolverKernels& kernels) {
  return std::make_unique<CpuSolver>(pool, kernels);
}

}  // namespace d2q
