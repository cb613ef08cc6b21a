#include "kernels/cuda/cuda_solver_refinement.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "kernels/column_scale_solve.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_matrix_ops.h"
#include "kernels/cuda/cuda_scaled_hessian.h"
#include "kernels/cuda/cuda_solver_walk.h"
#include "kernels/cuda/cuda_split_product.h"
#include "kernels/cuda/solver_columns_kernels.h"
#include "kernels/cuda/solver_refit_kernels.h"
#include "kernels/cuda/solver_walk_kernels.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kBlockColumns = cuda::kBlockColumns;
/// Intermediate results of one batch of rows, in bytes.
constexpr int64_t kBatchBytes = int64_t{1} << 32;
/// Blocks of the code descent before all later columns feel them: the fewer, the more often their
/// gradient is read and written.
constexpr int64_t kDescentColumns = 4 * kBlockColumns;
/// Panels of a symmetric product: a little more than half of the work.
constexpr int64_t kSymmetricPanels = 8;

void check_shapes(const Refinement& r) {
  const int64_t rows = r.weight.rows();
  const int64_t n = r.weight.cols();
  check_groups(r.groups, n);
  D2Q_CHECK(r.target.size() == rows * n && r.target_product.size() == rows * n &&
                r.codes.size() == rows * n,
            "target {}, product {}, codes {} for {}x{}", r.target.size(), r.target_product.size(),
            r.codes.size(), rows, n);
  D2Q_CHECK(r.hessian.rows() == n && r.hessian.cols() == n && r.column_scale.size() == n,
            "Hessian {}x{}, column scale {} for {} columns", r.hessian.rows(), r.hessian.cols(),
            r.column_scale.size(), n);
  const int64_t n_params = static_cast<int64_t>(r.groups.size()) * r.grid.n_params();
  D2Q_CHECK(r.params.rows() == rows && r.params.cols() == n_params, "params {}x{}", r.params.rows(),
            r.params.cols());
  D2Q_CHECK(std::max(n, n_params) <= std::numeric_limits<int32_t>::max(), "{} columns", n);
}

/// body(first row, rows) over batches whose intermediate results fit in kBatchBytes.
template <typename Body>
void for_row_batches(int64_t rows, int64_t bytes_per_row, Body&& body) {
  const int64_t limit = std::max<int64_t>(1, kBatchBytes / bytes_per_row);
  const int64_t n_batches = (rows + limit - 1) / limit;
  if (n_batches == 0) return;
  // Even batches: a short last one would leave the GPU idle.
  const int64_t batch = (rows + n_batches - 1) / n_batches;
  for (int64_t begin = 0; begin < rows; begin += batch) body(begin, std::min(batch, rows - begin));
}

/// result [n, n] = xᵀ x, x [rows, n]: panels of columns from the diagonal down, and their image.
void multiply_transposed(CudaContext& context, const Tensor& x, const Tensor& result) {
  const int64_t n = x.cols();
  const Tensor left = stacked_rows(context, x, cuda::SplitSide::kLeft);
  const Tensor right = stacked_rows(context, x, cuda::SplitSide::kRight);
  const auto* a = static_cast<const __nv_bfloat16*>(left.raw());
  const auto* b = static_cast<const __nv_bfloat16*>(right.raw());
  const int64_t panel = std::max<int64_t>(256, (n + kSymmetricPanels - 1) / kSymmetricPanels);
  for (int64_t column = 0; column < n; column += panel) {
    run_gemm(context, {.transpose_a = true,
                       .m = n - column,
                       .n = std::min(panel, n - column),
                       .k = left.rows(),
                       .a = a + column,
                       .lda = n,
                       .b = b + column,
                       .ldb = n,
                       .input = DType::kBF16,
                       .c = result.data<float>() + column * n + column,
                       .ldc = n});
  }
  mirror_lower_cuda(context, result);
}

/// Changes of J by row, [1, rows] f64, that operations on batches of rows fill in.
Tensor zero_changes(CudaContext& context, int64_t rows) {
  const Tensor changes = context.allocate(1, rows, DType::kF64);
  if (rows > 0) {
    check_cuda(
        cudaMemsetAsync(changes.raw(), 0, static_cast<size_t>(changes.n_bytes()), context.stream()),
        "filling");
  }
  return changes;
}

double sum_of(CudaContext& context, const Tensor& changes) {
  std::vector<double> values(static_cast<size_t>(changes.size()));
  context.download(changes.raw(), values.data(), changes.n_bytes());
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

}  // namespace

void CudaGroupTable::update(CudaContext& context, const Refinement& refinement) {
  const int n_params = refinement.grid.n_params();
  std::vector<int64_t> key = {n_params};
  for (const ColumnGroup& group : refinement.groups)
    key.insert(key.end(), {group.begin, group.size, group.index});
  if (key == key_) return;
  int64_t widest = 0;
  for (const ColumnGroup& group : refinement.groups) widest = std::max(widest, group.size);
  widest = std::min<int64_t>(widest, cuda::kMaxChunkWidth);
  chunk_width_ = (widest + 31) / 32 * 32;
  aligned_ = true;
  n_tiles_ = 0;
  std::vector<cuda::GroupSpan> spans;
  std::vector<cuda::ColumnChunk> chunks;
  std::vector<int32_t> group_of_column;
  std::vector<int32_t> first_param;
  for (const ColumnGroup& group : refinement.groups) {
    const auto first = static_cast<int32_t>(group.index * n_params);
    const auto size = static_cast<size_t>(group.size);
    const auto place = static_cast<int32_t>(spans.size());
    group_of_column.insert(group_of_column.end(), size, place);
    first_param.insert(first_param.end(), size, first);
    const auto n_chunks = static_cast<int32_t>((group.size + chunk_width_ - 1) / chunk_width_);
    const auto first_chunk = static_cast<int32_t>(chunks.size());
    spans.push_back({static_cast<int32_t>(group.begin), static_cast<int32_t>(group.size), first,
                     first_chunk, n_chunks});
    for (int32_t i = 0; i < n_chunks; ++i) {
      const int64_t begin = group.begin + i * chunk_width_;
      const int64_t columns = std::min(chunk_width_, group.begin + group.size - begin);
      chunks.push_back({static_cast<int32_t>(begin), static_cast<int32_t>(columns), place,
                        static_cast<int32_t>(n_tiles_)});
      n_tiles_ += first_chunk + n_chunks;
      aligned_ = aligned_ && columns == chunk_width_ && begin % 16 == 0;
    }
  }
  n_chunks_ = static_cast<int>(chunks.size());
  const auto n = static_cast<int64_t>(first_param.size());
  aligned_ = aligned_ && n % 16 == 0;
  const auto span_bytes = static_cast<int64_t>(spans.size() * sizeof(cuda::GroupSpan));
  const auto chunk_bytes = static_cast<int64_t>(chunks.size() * sizeof(cuda::ColumnChunk));
  key_.clear();  // nothing is known while the copies may fail
  spans_ = context.allocate_bytes(span_bytes);
  chunks_ = context.allocate_bytes(chunk_bytes);
  group_of_column_ = context.allocate(1, n, DType::kI32);
  first_param_ = context.allocate(1, n, DType::kI32);
  context.upload(spans.data(), spans_.get(), span_bytes);
  context.upload(chunks.data(), chunks_.get(), chunk_bytes);
  context.upload(group_of_column.data(), group_of_column_.raw(), group_of_column_.n_bytes());
  context.upload(first_param.data(), first_param_.raw(), first_param_.n_bytes());
  key_ = std::move(key);
}

void CudaGroupTable::describe(cuda::RefitBatch& batch) const {
  batch.groups = static_cast<const cuda::GroupSpan*>(spans_.get());
  batch.group_of_column = group_of_column_.data<int32_t>();
  batch.chunks = static_cast<const cuda::ColumnChunk*>(chunks_.get());
  batch.n_chunks = n_chunks_;
  batch.chunk_width = static_cast<int>(chunk_width_);
  batch.aligned_codes = aligned_;
}

int64_t CudaGroupTable::tile_bytes() const {
  return n_tiles_ * chunk_width_ * chunk_width_ * 2 * static_cast<int64_t>(sizeof(__nv_bfloat16));
}

double refit_scales_cuda(CudaContext& context, CudaGroupTable& table, const Refinement& r) {
  check_shapes(r);
  table.update(context, r);
  const int64_t rows = r.weight.rows();
  const int64_t n = r.weight.cols();
  cuda::RefitBatch batch;
  batch.stride = n;
  batch.uniform = r.grid.kind == GridKind::kUniform;
  batch.n_params = r.grid.n_params();
  D2Q_CHECK(batch.n_params >= 1 && batch.n_params <= 3, "{} parameters a group", batch.n_params);
  batch.n_groups = static_cast<int>(r.groups.size());
  table.describe(batch);
  batch.column_scale = r.column_scale.data<float>();
  batch.params_stride = r.params.cols();
  const int64_t unknowns = batch.unknowns();
  const int64_t system = unknowns * batch.system_stride();
  const int64_t row_bytes = system * static_cast<int64_t>(sizeof(float)) +
                            unknowns * cuda::kRefitVectors * static_cast<int64_t>(sizeof(double));
  const std::shared_ptr<void> tiles = context.allocate_bytes(table.tile_bytes());
  batch.tiles = static_cast<uint4*>(tiles.get());
  check_cuda(cuda::split_hessian(batch, r.hessian.data<float>(), context.stream()),
             "splitting the Hessian");
  const Tensor changes = zero_changes(context, rows);
  for_row_batches(rows, row_bytes, [&](int64_t begin, int64_t count) {
    const Tensor systems = context.allocate(count, system, DType::kF32);
    const Tensor vectors = context.allocate(count, unknowns * cuda::kRefitVectors, DType::kF64);
    batch.rows = count;
    batch.target_product = r.target_product.data<float>() + begin * n;
    batch.codes = r.codes.data<uint8_t>() + begin * n;
    batch.params = r.params.data<float>() + begin * batch.params_stride;
    batch.weight = r.weight.data<float>() + begin * n;
    batch.systems = systems.data<float>();
    batch.vectors = vectors.data<double>();
    batch.changes = changes.data<double>() + begin;
    check_cuda(cuda::prepare_refit(batch, context.stream()), "the refit's right-hand sides");
    check_cuda(cuda::add_normal_equations(batch, context.stream()), "normal equations");
    check_cuda(cuda::solve_refit(batch, context.stream()), "solving for the scales");
  });
  return sum_of(context, changes);
}

double refine_codes_cuda(CudaContext& context, CudaGroupTable& table, const Refinement& r) {
  check_shapes(r);
  table.update(context, r);
  const int64_t n = r.weight.cols();
  const cuda::GridLevels levels = grid_levels(r.grid);
  const std::vector<WalkBlock> blocks = cut_walk_blocks(r.groups);
  const ScaledHessian hessian(context, r.hessian);
  // The gradient in f32, its left operand and the changes in f16.
  const int64_t row_bytes = 6 * n + 2 * kDescentColumns;
  const Tensor changes = zero_changes(context, r.weight.rows());
  for_row_batches(r.weight.rows(), row_bytes, [&](int64_t begin, int64_t count) {
    const Tensor gradient = context.allocate(count, n, DType::kF32);
    const Tensor change = context.allocate(count, kDescentColumns, DType::kF16);
    auto* const changed_values = static_cast<__half*>(change.raw());
    const ScaledHessian::Rows x =
        hessian.difference(r.weight.row_range(begin, count), r.target.row_range(begin, count));
    hessian.multiply({.left = static_cast<const __half*>(x.values.raw()),
                      .left_stride = n,
                      .m = count,
                      .depth = n,
                      .columns = n,
                      .c = gradient.data<float>(),
                      .c_stride = n});
    // Columns from `first` to `last` feel the changes of those from `changed` to `first`; earlier
    // ones are not read again in this sweep.
    int64_t window = 0;
    int64_t window_end = 0;
    const auto feel = [&](int64_t changed, int64_t first, int64_t last) {
      if (first == last) return;
      hessian.multiply({.left = changed_values + (changed - window),
                        .left_stride = kDescentColumns,
                        .m = count,
                        .row = changed,
                        .depth = first - changed,
                        .column = first,
                        .columns = last - first,
                        .c = gradient.data<float>() + first,
                        .c_stride = n,
                        .beta = 1.0});
    };
    for (const WalkBlock& block : blocks) {
      if (block.begin == window_end) {
        window = block.begin;
        for (const WalkBlock& next : blocks)
          if (next.end <= window + kDescentColumns) window_end = next.end;
      }
      cuda::DescentPart part;
      part.weight = r.weight.data<float>() + begin * n;
      part.gradient = gradient.data<float>();
      part.row_scale = x.scales.data<float>();
      part.root = hessian.roots().data<float>();
      part.rows = count;
      part.stride = n;
      part.begin = block.begin;
      part.n_columns = static_cast<int>(block.end - block.begin);
      part.hessian = r.hessian.data<float>();
      part.column_scale = r.column_scale.data<float>();
      part.params_stride = r.params.cols();
      part.params = r.params.data<float>() + begin * part.params_stride;
      part.first_param = table.first_param();
      part.codes = r.codes.data<uint8_t>() + begin * n;
      part.change = changed_values + (block.begin - window);
      part.change_stride = kDescentColumns;
      part.changes = changes.data<double>() + begin;
      check_cuda(cuda::descend_part(part, levels, context.stream()), "code descent");
      if (block.end < window_end) {
        feel(block.begin, block.end, window_end);
      } else {
        feel(window, window_end, n);
      }
    }
  });
  return sum_of(context, changes);
}

double refit_column_scale_cuda(CudaContext& context, CudaGroupTable& table, const Refinement& r) {
  check_shapes(r);
  D2Q_CHECK(r.grid.kind == GridKind::kSignPlanes, "column scale on a uniform grid");
  table.update(context, r);
  const int64_t n = r.weight.cols();
  const Tensor levels = context.allocate(r.weight.rows(), n, DType::kF32);
  const Tensor matrix = context.allocate(n, n, DType::kF32);
  const Tensor right = context.allocate(1, n, DType::kF64);
  const Tensor diagonal = context.allocate(1, n, DType::kF64);
  const Tensor image = context.allocate(1, n, DType::kF64);
  const Tensor vector = context.allocate(1, n, DType::kF64);
  cuda::ColumnScaleParts parts;
  parts.rows = r.weight.rows();
  parts.columns = n;
  parts.n_planes = r.grid.bits;
  parts.codes = r.codes.data<uint8_t>();
  parts.params = r.params.data<float>();
  parts.params_stride = r.params.cols();
  parts.first_param = table.first_param();
  parts.target_product = r.target_product.data<float>();
  parts.hessian = r.hessian.data<float>();
  parts.levels = levels.data<float>();
  parts.matrix = matrix.data<float>();
  parts.right = right.data<double>();
  parts.diagonal = diagonal.data<double>();
  check_cuda(cuda::prepare_column_scale(parts, context.stream()), "the column scale's levels");
  multiply_transposed(context, levels, matrix);
  check_cuda(cuda::weigh_by_hessian(parts, context.stream()), "the column scale's matrix");

  ColumnScaleQuadratic quadratic;
  quadratic.right.resize(static_cast<size_t>(n));
  std::vector<float> old(static_cast<size_t>(n));
  context.download(right.raw(), quadratic.right.data(), right.n_bytes());
  context.download(r.column_scale.raw(), old.data(), r.column_scale.n_bytes());
  quadratic.times = [&](const std::vector<double>& x) {
    context.upload(x.data(), vector.raw(), vector.n_bytes());
    check_cuda(cuda::multiply_vector(parts.matrix, n, vector.data<double>(), image.data<double>(),
                                     context.stream()),
               "a product with the column scale's matrix");
    std::vector<double> result(x.size());
    context.download(image.raw(), result.data(), image.n_bytes());
    return result;
  };
  const Tensor minimum = context.allocate(1, n, DType::kF64);
  convert_cuda(context, r.column_scale, minimum);
  const Tensor residual = context.allocate(1, n, DType::kF64);
  const Tensor scalars = context.allocate(1, 3, DType::kF64);
  check_cuda(
      cuda::minimise_column_scale({.matrix = parts.matrix,
                                   .n = n,
                                   .right = right.data<double>(),
                                   .diagonal = diagonal.data<double>(),
                                   .x = minimum.data<double>(),
                                   .residual = residual.data<double>(),
                                   .direction = vector.data<double>(),
                                   .image = image.data<double>(),
                                   .scalars = scalars.data<double>()},
                                  kColumnScaleSteps, kColumnScaleTolerance, context.stream()),
      "the column scale");
  std::vector<double> found(static_cast<size_t>(n));
  context.download(minimum.raw(), found.data(), minimum.n_bytes());
  const ColumnScaleSolution solution = accept_column_scale(quadratic, old, std::move(found));
  if (solution.scale.empty()) return 0.0;
  context.upload(solution.scale.data(), r.column_scale.raw(), r.column_scale.n_bytes());
  check_cuda(cuda::scale_levels(parts, r.column_scale.data<float>(), r.weight.data<float>(),
                                context.stream()),
             "the scaled levels");
  return solution.change;
}

double refinement_objective_cuda(CudaContext& context, const Refinement& r) {
  check_shapes(r);
  const int64_t n = r.weight.cols();
  CudaDot objective(context);
  const SplitMatrix hessian(context, r.hessian);
  for_row_batches(r.weight.rows(), 2 * n * static_cast<int64_t>(sizeof(float)),
                  [&](int64_t begin, int64_t count) {
                    const Tensor weight = r.weight.row_range(begin, count);
                    const Tensor target = r.target.row_range(begin, count);
                    const Tensor product = context.allocate(count, n, DType::kF32);
                    hessian.multiply(rounded_pairs(context, weight, target), product);
                    objective.add_quadratic(weight, target, product);
                  });
  return objective.total();
}

}  // namespace d2q
