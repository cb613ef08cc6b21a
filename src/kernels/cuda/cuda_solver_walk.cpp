#include "kernels/cuda/cuda_solver_walk.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "kernels/cuda/cuda_split_product.h"
#include "kernels/cuda/solver_fit_kernels.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kBlockColumns = cuda::kBlockColumns;

class Walker {
 public:
  Walker(CudaContext& context, const ColumnWalk& walk)
      : context_(context),
        walk_(walk),
        rows_(walk.weight.rows()),
        n_(walk.weight.cols()),
        levels_(grid_levels(walk.grid)) {
    if (!walk.inverse_factor.empty()) {
      negated_errors_ = context.allocate(rows_, kBlockColumns, DType::kF32);
      if (!walk.asymmetry.empty()) finished_ = context.allocate(rows_, kBlockColumns, DType::kF32);
    }
    if (fits_columns()) prepare_column_fit();
  }

  void run() {
    check_cuda(cuda::fill(walk_.column_scale.data<float>(), n_, 1.0f, context_.stream()),
               "the column scale");
    auto group = walk_.groups.begin();
    for (const WalkBlock& block : cut_walk_blocks(walk_.groups)) {
      // Groups and blocks both cover the columns in order.
      while (group != walk_.groups.end() && group->begin < block.end) {
        const int64_t group_end = group->begin + group->size;
        if (group->begin >= block.begin) fit(*group);
        walk_part(*group, std::max(group->begin, block.begin), std::min(group_end, block.end),
                  block);
        if (group_end > block.end) break;
        ++group;
      }
      update_trailing(block);
    }
  }

 private:
  bool fits_columns() const {
    return walk_.grid.kind == GridKind::kSignPlanes && walk_.grid.column_scale;
  }

  void prepare_column_fit() {
    int64_t widest = 0;
    for (const ColumnGroup& group : walk_.groups) widest = std::max(widest, group.size);
    const int64_t n_parts = cuda::column_fit_parts(rows_);
    r_ = context_.allocate(rows_, walk_.grid.n_params(), DType::kF32);
    numerators_ = context_.allocate(n_parts, widest, DType::kF32);
    denominators_ = context_.allocate(n_parts, widest, DType::kF32);
    factor_ = context_.allocate(1, 1, DType::kF64);
    arrived_ = context_.allocate(1, 1, DType::kI32);
    check_cuda(cudaMemsetAsync(arrived_.raw(), 0, static_cast<size_t>(arrived_.n_bytes()),
                               context_.stream()),
               "filling");
  }

  float* params_of(const ColumnGroup& group) const {
    return walk_.params.data<float>() + group.index * walk_.grid.n_params();
  }

  void fit(const ColumnGroup& group) const {
    cuda::FitGroup fitted;
    fitted.data = walk_.weight.data<float>() + group.begin;
    fitted.rows = rows_;
    fitted.cols = static_cast<int>(group.size);
    fitted.stride = n_;
    fitted.params = params_of(group);
    fitted.params_stride = walk_.params.cols();
    float* c = walk_.column_scale.data<float>() + group.begin;
    if (walk_.grid.kind == GridKind::kUniform) {
      check_cuda(
          cuda::fit_uniform(fitted, levels_.max_code, walk_.grid.clip_search, context_.stream()),
          "fitting a uniform grid");
    } else if (!fits_columns()) {
      check_cuda(cuda::fit_planes(fitted, c, walk_.grid.bits, walk_.grid.fit_iterations,
                                  context_.stream()),
                 "fitting sign planes");
    } else {
      fit_with_columns(fitted, c);
    }
  }

  void fit_with_columns(const cuda::FitGroup& group, float* c) const {
    cuda::ColumnFit fit;
    fit.group = group;
    fit.planes = walk_.grid.bits;
    fit.column_scale = c;
    fit.r = r_.data<float>();
    fit.numerators = numerators_.data<float>();
    fit.denominators = denominators_.data<float>();
    fit.factor = factor_.data<double>();
    fit.arrived = arrived_.data<int32_t>();
    cudaStream_t stream = context_.stream();
    const char* what = "fitting sign planes with a column scale";
    check_cuda(cuda::column_magnitudes(fit, stream), what);
    check_cuda(cuda::update_columns(fit, cuda::ColumnUpdate::kMeanMagnitude, stream), what);
    check_cuda(cuda::start_rows(fit, stream), what);
    for (int iteration = 0; iteration < walk_.grid.fit_iterations; ++iteration) {
      check_cuda(cuda::fit_rows(fit, iteration == 0, stream), what);
      check_cuda(cuda::update_columns(fit, cuda::ColumnUpdate::kLeastSquares, stream), what);
    }
    check_cuda(cuda::normalise_columns(fit, stream), what);
    check_cuda(cuda::store_rows(fit, stream), what);
  }

  /// Walks [begin, end), which lies in one group and in `block`.
  void walk_part(const ColumnGroup& group, int64_t begin, int64_t end,
                 const WalkBlock& block) const {
    cuda::WalkPart part;
    part.weight = walk_.weight.data<float>();
    part.rows = rows_;
    part.stride = n_;
    part.begin = begin;
    part.n_columns = static_cast<int>(end - begin);
    part.width = static_cast<int>(block.end - begin);
    part.column_scale = walk_.column_scale.data<float>();
    part.params = params_of(group);
    part.params_stride = walk_.params.cols();
    part.codes = walk_.codes.data<uint8_t>();
    if (!walk_.inverse_factor.empty()) {
      part.factor = walk_.inverse_factor.data<float>();
      part.negated_errors = negated_errors_.data<float>() + (begin - block.begin);
      if (!walk_.asymmetry.empty()) {
        part.asymmetry = walk_.asymmetry.data<float>();
        part.finished = finished_.data<float>() + (begin - block.begin);
      }
    }
    check_cuda(cuda::walk_part(part, levels_, context_.stream()), "walking columns");
  }

  void update_trailing(const WalkBlock& block) const {
    if (walk_.inverse_factor.empty() || block.end == n_) return;
    const auto add = [&](const Tensor& panel, const Tensor& matrix) {
      CudaGemm gemm;
      gemm.m = rows_;
      gemm.n = n_ - block.end;
      gemm.k = block.end - block.begin;
      gemm.a = panel.raw();
      gemm.lda = kBlockColumns;
      gemm.b = matrix.data<float>() + block.begin * n_ + block.end;
      gemm.ldb = n_;
      gemm.c = walk_.weight.data<float>() + block.end;
      gemm.ldc = n_;
      gemm.beta = 1.0;
      run_split_gemm(context_, gemm);
    };
    add(negated_errors_, walk_.inverse_factor);
    if (!walk_.asymmetry.empty()) add(finished_, walk_.asymmetry);
  }

  CudaContext& context_;
  const ColumnWalk& walk_;
  const int64_t rows_;
  const int64_t n_;
  const cuda::GridLevels levels_;
  Tensor negated_errors_;  // [rows, kBlockColumns] −e of the block's columns
  Tensor finished_;        // the same for the quantized columns
  Tensor r_;
  Tensor numerators_;
  Tensor denominators_;
  Tensor factor_;
  Tensor arrived_;
};

}  // namespace

std::vector<WalkBlock> cut_walk_blocks(std::span<const ColumnGroup> groups) {
  std::vector<WalkBlock> blocks;
  for (const ColumnGroup& group : groups) {
    const int64_t end = group.begin + group.size;
    if (!blocks.empty() && end - blocks.back().begin <= kBlockColumns) {
      blocks.back().end = end;
      continue;
    }
    for (int64_t begin = group.begin; begin < end; begin += kBlockColumns)
      blocks.push_back({begin, std::min(begin + kBlockColumns, end)});
  }
  return blocks;
}

cuda::GridLevels grid_levels(const Grid& grid) {
  cuda::GridLevels levels;
  if (grid.kind == GridKind::kSignPlanes) {
    D2Q_CHECK(grid.bits >= 1 && grid.bits <= 3, "{} sign planes", grid.bits);
    levels.n_levels = 1 << grid.bits;
  } else {
    levels.max_code = static_cast<float>((1 << grid.bits) - 1);
  }
  return levels;
}

void column_walk_cuda(CudaContext& context, const ColumnWalk& walk) {
  check_column_walk(walk);
  const int64_t n = walk.weight.cols();
  D2Q_CHECK(n <= std::numeric_limits<int32_t>::max(), "{} columns", n);
  if (walk.weight.rows() == 0) return;
  Walker(context, walk).run();
}

}  // namespace d2q
