#include "kernels/cpu/packed_linear.h"

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/gemm.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

PackedFormat format_of(const PackedLayout& layout) {
  if (layout.kind == PackedKind::kSignPlanes) {
    return layout.bits == 2 ? kSignPlanes2 : kSignPlanes3;
  }
  switch (layout.bits) {
    case 2:
      return kUniform2;
    case 3:
      return kUniform3;
    case 4:
      return kUniform4;
    case 6:
      return kUniform6;
    default:
      return kUniform8;
  }
}

/// Null where a layout's lookups, if there are any, read the codes as they are stored.
LookupKernels::Reorder arrange_of(const PackedKernels& kernels, const PackedLayout& layout) {
  if (kernels.lookup == nullptr || layout.kind != PackedKind::kSignPlanes) return nullptr;
  return kernels.lookup->arrange[layout.bits - 2];
}

/// A packed matrix with its sizes worked out, as pointers for the kernels.
struct Weights {
  PackedLayout layout;
  PackedGeometry geometry;
  PackedFormat format;
  const uint8_t* codes;
  const uint16_t* scales;
  LookupKernels::Reorder restore = nullptr;  // of arranged codes

  Weights(const PackedKernels& kernels, const PackedView& view, bool arranged)
      : layout(view.layout),
        geometry(geometry_of(view.layout)),
        format(format_of(view.layout)),
        codes(view.codes.data()),
        scales(&view.scales.data()->bits) {
    if (arranged) restore = kernels.lookup->restore[layout.bits - 2];
  }

  PackedTile tile(int64_t index) const {
    return {codes + index * geometry.tile_code_bytes, scales + index * geometry.tile_scales,
            geometry.n_groups, geometry.group_steps, geometry.last_group_steps};
  }
  /// What stored_tile() needs.
  int64_t scratch_bytes() const { return restore == nullptr ? 0 : geometry.tile_code_bytes; }
  /// A tile whose codes are as they are stored, in `scratch` if they were arranged.
  PackedTile stored_tile(int64_t index, uint8_t* scratch) const {
    PackedTile result = tile(index);
    if (restore != nullptr) {
      restore(result.codes, geometry.tile_steps, scratch);
      result.codes = scratch;
    }
    return result;
  }
};

void check_shapes(const Tensor& x, const PackedView& w, const Tensor& bias, const Tensor& y,
                  DType products) {
  check_packed_linear(x, w.layout, bias, y, products);
  D2Q_CHECK(static_cast<int64_t>(w.codes.size()) == codes_bytes(w.layout), "{} bytes of codes",
            w.codes.size());
  D2Q_CHECK(static_cast<int64_t>(w.scales.size()) == scales_count(w.layout), "{} scales",
            w.scales.size());
}

// --- few tokens: on the codes --------------------------------------------------------------------

/// Row tiles a task: about 64 tasks a matrix, but no less than 16 KB of codes (a task's cost) and
/// no more than 256 KB (balance).
int64_t tiles_per_task(const PackedGeometry& geometry) {
  const int64_t total = geometry.n_row_tiles * geometry.tile_code_bytes;
  const int64_t target = std::clamp<int64_t>(total / 64, 16 << 10, 256 << 10);
  return std::max<int64_t>(1, target / geometry.tile_code_bytes);
}

/// A tile's outputs of one token into a row of y.
void store_rows(const float* source, int64_t n, const float* bias, float* target) {
  for (int64_t r = 0; r < n; ++r) target[r] = bias == nullptr ? source[r] : source[r] + bias[r];
}

/// One product: where its weights are and where its outputs go.
struct Job {
  Weights weights;
  const float* bias;
  float* out;
  int64_t n_tasks;
  int64_t tiles_a_task;

  Job(const PackedKernels& kernels, const PackedProductView& product)
      : weights(kernels, product.w, product.arranged),
        bias(product.bias.empty() ? nullptr : product.bias.data<float>()),
        out(product.y.data<float>()),
        tiles_a_task(tiles_per_task(weights.geometry)) {
    n_tasks = (weights.geometry.n_row_tiles + tiles_a_task - 1) / tiles_a_task;
  }

  /// The 16 outputs of a tile for one token; those of padding rows are dropped.
  void store(const float* source, int64_t tile, int64_t token) const {
    const int64_t row = tile * kTileRows, n_rows = weights.layout.rows;
    store_rows(source, std::min(kTileRows, n_rows - row), bias == nullptr ? nullptr : bias + row,
               out + token * n_rows + row);
  }
};

void multiply_by_lookup(const PackedKernels& kernels, const Job& job,
                        const QuantizedActivations& activations, int64_t n_tokens, int64_t begin,
                        int64_t end) {
  const LookupKernels::MatVec mat_vec = kernels.lookup->mat_vec[job.weights.layout.bits - 2];
  // As many tiles at a time as stay in L2 for the other tokens, whose tables are larger than a
  // tile.
  const int64_t at_once = std::max<int64_t>(1, (128 << 10) / job.weights.geometry.tile_code_bytes);
  for (int64_t first = begin; first < end; first += at_once) {
    for (int64_t token = 0; token < n_tokens; ++token) {
      const QuantizedTokens x = activations.tokens(token, 1);
      for (int64_t tile = first; tile < std::min(end, first + at_once); ++tile) {
        std::array<float, kTileRows> result;
        mat_vec(job.weights.tile(tile), x, result.data());
        job.store(result.data(), tile, token);
      }
    }
  }
}

void multiply_digits(const PackedKernels& kernels, const Job& job,
                     const QuantizedActivations& activations, int64_t n_tokens, int64_t begin,
                     int64_t end) {
  const PackedKernels::MatVec mat_vec = kernels.mat_vec[job.weights.format];
  for (int64_t tile = begin; tile < end; ++tile) {
    // The tile stays in L1 or L2 for the later passes.
    for (int64_t first = 0; first < n_tokens; first += kTokensPerPass) {
      const int64_t count = std::min(kTokensPerPass, n_tokens - first);
      std::array<float, kTokensPerPass * kTileRows> result;
      mat_vec(job.weights.tile(tile), activations.tokens(first, count), result.data());
      for (int64_t t = 0; t < count; ++t) {
        job.store(result.data() + t * kTileRows, tile, first + t);
      }
    }
  }
}

// --- many tokens: panels of weights for a GEMM ---------------------------------------------------

float converted(BFloat16 value, float) { return to_float(value); }
BFloat16 converted(float value, BFloat16) { return to_bfloat16(value); }

template <typename From, typename To>
Matrix<To> convert_rows(ThreadPool& pool, const Tensor& x) {
  Matrix<To> result(x.rows(), x.cols());
  const From* source = x.data<From>();
  pool.parallel_for(x.rows(), [&](int64_t row, int) {
    To* target = result.row(row);
    for (int64_t c = 0; c < x.cols(); ++c) {
      target[c] = converted(source[row * x.cols() + c], To{});
    }
  });
  return result;
}

void dequantize_group(const PackedKernels& kernels, PackedFormat format, const uint8_t* codes,
                      const uint16_t* scales, int64_t n_steps, float* out, int64_t row_stride) {
  kernels.dequantize_f32[format](codes, scales, n_steps, out, row_stride);
}

void dequantize_group(const PackedKernels& kernels, PackedFormat format, const uint8_t* codes,
                      const uint16_t* scales, int64_t n_steps, BFloat16* out, int64_t row_stride) {
  kernels.dequantize_bf16[format](codes, scales, n_steps, &out->bits, row_stride);
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, const float* b, int64_t ldb, float* c,
          int64_t ldc) {
  gemm_f32(false, true, m, n, k, a, k, b, ldb, 0.0f, c, ldc);
}

void gemm(int64_t m, int64_t n, int64_t k, const BFloat16* a, const BFloat16* b, int64_t ldb,
          float* c, int64_t ldc) {
  gemm_bf16(false, true, m, n, k, a, k, b, ldb, 0.0f, c, ldc);
}

/// One row tile as out[16, row_stride]. A group's padding runs into the columns of the next group,
/// which is written after it, or of the stride's spare step.
template <typename T>
void dequantize_rows(const PackedKernels& kernels, const Weights& weights, const PackedTile& tile,
                     T* out, int64_t row_stride) {
  const int64_t bytes = step_bytes(weights.layout.bits);
  for (int64_t group = 0; group < tile.n_groups; ++group) {
    dequantize_group(kernels, weights.format, tile.codes + group * tile.group_steps * bytes,
                     tile.scales + group * weights.layout.n_params() * kTileRows,
                     weights.geometry.steps_of(group), out + group * weights.layout.group_size,
                     row_stride);
  }
}

void add_bias(float* y, int64_t n_tokens, int64_t row_stride, const float* bias, int64_t n) {
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t r = 0; r < n; ++r) y[t * row_stride + r] += bias[r];
  }
}

template <typename T>
void multiply_panels(ThreadPool& pool, const PackedKernels& kernels, const T* x, int64_t n_tokens,
                     const Weights& weights, const float* bias, const Tensor& y) {
  const int64_t n_rows = weights.layout.rows;
  const int64_t n_cols = weights.layout.cols;
  const int64_t stride = (n_cols + kStepColumns - 1) / kStepColumns * kStepColumns + kStepColumns;
  const int64_t n_tiles = weights.geometry.n_row_tiles;
  // oneDNN is 10 to 15% faster with 128 rows than with 64, wherever the panel then lies; matrices
  // of few rows are cut finer, for many threads.
  const int64_t panel_tiles = std::clamp<int64_t>(n_tiles / 8, 2, 8);
  Matrix<T> panels(pool.n_threads(), panel_tiles * kTileRows * stride);
  Matrix<uint8_t> scratch(pool.n_threads(), weights.scratch_bytes());
  float* out = y.data<float>();
  pool.parallel_for((n_tiles + panel_tiles - 1) / panel_tiles, [&](int64_t task, int worker) {
    T* panel = panels.row(worker);
    const int64_t first_tile = task * panel_tiles;
    const int64_t end_tile = std::min(n_tiles, first_tile + panel_tiles);
    for (int64_t tile = first_tile; tile < end_tile; ++tile) {
      dequantize_rows(kernels, weights, weights.stored_tile(tile, scratch.row(worker)),
                      panel + (tile - first_tile) * kTileRows * stride, stride);
    }
    const int64_t first_row = first_tile * kTileRows;
    const int64_t rows = std::min(end_tile * kTileRows, n_rows) - first_row;
    gemm(n_tokens, rows, n_cols, x, panel, stride, out + first_row, n_rows);
    if (bias != nullptr) add_bias(out + first_row, n_tokens, n_rows, bias + first_row, rows);
  });
}

/// x in the type of the products; a conversion lives in `converted_memory`.
template <typename T>
const T* as_products(ThreadPool& pool, const Tensor& x, Matrix<T>& converted_memory) {
  if (x.dtype() == dtype_of<T>()) return x.data<T>();
  if constexpr (std::is_same_v<T, float>) {
    converted_memory = convert_rows<BFloat16, float>(pool, x);
  } else {
    converted_memory = convert_rows<float, BFloat16>(pool, x);
  }
  return converted_memory.data();
}

template <typename T>
void multiply_all_panels(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                         std::span<const PackedProductView> products) {
  Matrix<T> converted_memory;
  const T* input = as_products(pool, x, converted_memory);
  for (const PackedProductView& product : products) {
    const Job job(kernels, product);
    multiply_panels(pool, kernels, input, x.rows(), job.weights, job.bias, product.y);
  }
}

}  // namespace

bool PackedMultiplier::arranges(const PackedLayout& layout) const {
  return arrange_of(kernels_, layout) != nullptr;
}

void PackedMultiplier::arrange(const PackedView& w, uint8_t* out) {
  const Weights weights(kernels_, w, false);
  const LookupKernels::Reorder reorder = arrange_of(kernels_, w.layout);
  D2Q_CHECK(reorder != nullptr, "{} bits are not arranged", w.layout.bits);
  D2Q_CHECK(static_cast<int64_t>(w.codes.size()) == codes_bytes(w.layout), "{} bytes of codes",
            w.codes.size());
  const PackedGeometry& geometry = weights.geometry;
  const int64_t task_tiles = tiles_per_task(geometry);
  pool_.parallel_for((geometry.n_row_tiles + task_tiles - 1) / task_tiles, [&](int64_t task, int) {
    const int64_t begin = task * task_tiles;
    const int64_t end = std::min(geometry.n_row_tiles, begin + task_tiles);
    reorder(weights.tile(begin).codes, (end - begin) * geometry.tile_steps,
            out + begin * geometry.tile_code_bytes);
  });
}

void PackedMultiplier::dequantize_arranged_row(const PackedView& arranged, int64_t row,
                                               std::span<float> out) const {
  const Weights weights(kernels_, arranged, true);
  const int64_t tile = row / kTileRows;
  std::vector<uint8_t> codes(static_cast<size_t>(weights.scratch_bytes()));
  weights.stored_tile(tile, codes.data());
  PackedLayout layout = arranged.layout;
  layout.rows = std::min(kTileRows, layout.rows - tile * kTileRows);
  const auto n_scales = static_cast<size_t>(weights.geometry.tile_scales);
  const auto scales = arranged.scales.subspan(static_cast<size_t>(tile) * n_scales, n_scales);
  dequantize_row({layout, codes, scales}, row % kTileRows, out);
}

bool PackedMultiplier::uses_lookup(const PackedProductView& product, int64_t n_tokens) const {
  const LookupKernels* lookup = kernels_.lookup;
  const PackedLayout& layout = product.w.layout;
  return lookup != nullptr && layout.kind == PackedKind::kSignPlanes &&
         product.arranged == arranges(layout) && n_tokens <= lookup->max_tokens &&
         (activations_ == ActivationBits::k16 || lookup->for_8_bit_digits);
}

void PackedMultiplier::multiply_codes(const Tensor& x,
                                      std::span<const PackedProductView> products) {
  // As many at once as share their columns' cut; a model's fused products always do.
  while (!products.empty()) {
    const PackedLayout& layout = products.front().w.layout;
    std::array<std::optional<Job>, kMaxFusedProducts> jobs;
    size_t n_jobs = 0;
    int64_t n_tasks = 0;
    int table_planes = 0;
    while (n_jobs < jobs.size() && n_jobs < products.size() &&
           products[n_jobs].w.layout.group_size == layout.group_size) {
      const PackedProductView& product = products[n_jobs];
      const Job& job = jobs[n_jobs].emplace(kernels_, product);
      n_tasks += job.n_tasks;
      if (uses_lookup(product, x.rows())) {
        table_planes = std::max(table_planes, product.w.layout.bits);
      } else {
        D2Q_CHECK(!product.arranged, "{} tokens cannot be looked up", x.rows());
      }
      ++n_jobs;
    }
    quantized_.assign(
        pool_, kernels_, x, layout,
        {.low_digits = activations_ == ActivationBits::k16, .table_planes = table_planes});
    pool_.parallel_for(n_tasks, [&](int64_t task, int) {
      size_t index = 0;
      while (task >= jobs[index]->n_tasks) task -= jobs[index++]->n_tasks;
      const Job& job = *jobs[index];
      const int64_t begin = task * job.tiles_a_task;
      const int64_t end = std::min(job.weights.geometry.n_row_tiles, begin + job.tiles_a_task);
      const auto multiply =
          uses_lookup(products[index], x.rows()) ? multiply_by_lookup : multiply_digits;
      multiply(kernels_, job, quantized_, x.rows(), begin, end);
    });
    products = products.subspan(n_jobs);
  }
}

void PackedMultiplier::multiply(const Tensor& x, std::span<const PackedProductView> products,
                                DType precision) {
  for (const PackedProductView& product : products)
    check_shapes(x, product.w, product.bias, product.y, precision);
  if (x.rows() == 0) return;
  const auto on_codes = [&](const PackedProductView& product) {
    return x.rows() <= max_mat_vec_tokens(product.w.layout.kind);
  };
  while (!products.empty()) {
    const bool codes = on_codes(products.front());
    size_t count = 1;
    while (count < products.size() && on_codes(products[count]) == codes) ++count;
    const auto run = products.first(count);
    if (codes) {
      multiply_codes(x, run);
    } else if (precision == DType::kF32) {
      multiply_all_panels<float>(pool_, kernels_, x, run);
    } else {
      multiply_all_panels<BFloat16>(pool_, kernels_, x, run);
    }
    products = products.subspan(count);
  }
}

}  // namespace d2q
