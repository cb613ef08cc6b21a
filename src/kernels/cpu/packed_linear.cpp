#include "kernels/cpu/packed_linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "base/matrix.h"
#include "codec/packed_geometry.h"
#include "kernels/cpu/gemm.h"

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
    default:
      return kUniform8;
  }
}

/// A packed matrix with its sizes worked out, as pointers for the kernels.
struct Weights {
  PackedLayout layout;
  PackedGeometry geometry;
  PackedFormat format;
  const uint8_t* codes;
  const uint16_t* scales;

  explicit Weights(const PackedView& view)
      : layout(view.layout),
        geometry(geometry_of(view.layout)),
        format(format_of(view.layout)),
        codes(view.codes.data()),
        scales(&view.scales.data()->bits) {}

  PackedTile tile(int64_t index) const {
    return {codes + index * geometry.tile_code_bytes, scales + index * geometry.tile_scales,
            geometry.n_groups, geometry.group_steps, geometry.last_group_steps};
  }
};

void check_shapes(const Tensor& x, const PackedView& w, const Tensor& bias, const Tensor& y,
                  DType products) {
  validate(w.layout, "packed linear");
  D2Q_CHECK(static_cast<int64_t>(w.codes.size()) == codes_bytes(w.layout), "{} bytes of codes",
            w.codes.size());
  D2Q_CHECK(static_cast<int64_t>(w.scales.size()) == scales_count(w.layout), "{} scales",
            w.scales.size());
  D2Q_CHECK(x.cols() == w.layout.cols, "x has {} columns, weights {}", x.cols(), w.layout.cols);
  D2Q_CHECK(x.dtype() == DType::kF32 || x.dtype() == DType::kBF16, "x dtype {}",
            static_cast<int>(x.dtype()));
  D2Q_CHECK(y.rows() == x.rows() && y.cols() == w.layout.rows && y.dtype() == DType::kF32,
            "y {}x{} for {}x{}", y.rows(), y.cols(), x.rows(), w.layout.rows);
  D2Q_CHECK(bias.empty() || (bias.size() == w.layout.rows && bias.dtype() == DType::kF32),
            "bias of {} for {} rows", bias.size(), w.layout.rows);
  D2Q_CHECK(products == DType::kF32 || products == DType::kBF16, "products dtype {}",
            static_cast<int>(products));
}

// --- few tokens: on the codes --------------------------------------------------------------------

/// All tokens' digits, padded like the weights' columns.
class QuantizedActivations {
 public:
  QuantizedActivations(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                       const Weights& weights)
      : padded_(weights.geometry.tile_steps * kStepColumns),
        n_blocks_(count_blocks(weights.geometry)),
        high_(x.rows(), padded_),
        low_(x.rows(), padded_),
        scale_(x.rows(), n_blocks_),
        sum_(x.rows(), n_blocks_) {
    pool.parallel_for(x.rows(), [&](int64_t token, int) {
      if (x.dtype() == DType::kF32) {
        quantize_token(kernels, weights, token, x.data<float>() + token * x.cols());
        return;
      }
      const BFloat16* source = x.data<BFloat16>() + token * x.cols();
      std::vector<float> wide(static_cast<size_t>(x.cols()));
      std::transform(source, source + x.cols(), wide.begin(),
                     [](BFloat16 value) { return to_float(value); });
      quantize_token(kernels, weights, token, wide.data());
    });
  }

  QuantizedTokens tokens(int64_t first, int64_t count) const {
    return {count,           high_.row(first), low_.row(first), scale_.row(first),
            sum_.row(first), padded_,          n_blocks_};
  }

 private:
  static int64_t blocks_of(int64_t n_steps) { return (n_steps + kBlockSteps - 1) / kBlockSteps; }

  static int64_t count_blocks(const PackedGeometry& geometry) {
    return (geometry.n_groups - 1) * blocks_of(geometry.group_steps) +
           blocks_of(geometry.last_group_steps);
  }

  void quantize_token(const PackedKernels& kernels, const Weights& weights, int64_t token,
                      const float* x) {
    int8_t* high = high_.row(token);
    int8_t* low = low_.row(token);
    float* scale = scale_.row(token);
    float* sum = sum_.row(token);
    for (int64_t group = 0; group < weights.geometry.n_groups; ++group) {
      const GroupColumns columns = columns_of(weights.layout, group);
      for (int64_t done = 0; done < columns.size; done += kBlockSteps * kStepColumns) {
        const int64_t size = std::min(kBlockSteps * kStepColumns, columns.size - done);
        const int64_t n_steps = (size + kStepColumns - 1) / kStepColumns;
        const float* source = x + columns.begin + done;
        std::array<float, kBlockSteps * kStepColumns> padded;
        if (size != n_steps * kStepColumns) {
          padded.fill(0.0f);
          std::copy_n(source, size, padded.begin());
          source = padded.data();
        }
        kernels.quantize_block(source, n_steps, high, low, scale++, sum++);
        high += n_steps * kStepColumns;
        low += n_steps * kStepColumns;
      }
    }
  }

  int64_t padded_;
  int64_t n_blocks_;
  Matrix<int8_t> high_;
  Matrix<int8_t> low_;
  Matrix<float> scale_;
  Matrix<float> sum_;
};

/// Row tiles a task: about 64 tasks a matrix, but no less than 16 KB of codes (a task's cost) and
/// no more than 256 KB (balance; prefetching past a task's end is then below 2% of the traffic).
int64_t tiles_per_task(const PackedGeometry& geometry) {
  const int64_t total = geometry.n_row_tiles * geometry.tile_code_bytes;
  const int64_t target = std::clamp<int64_t>(total / 64, 16 << 10, 256 << 10);
  return std::max<int64_t>(1, target / geometry.tile_code_bytes);
}

void multiply_codes(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                    const Weights& weights, const float* bias, const Tensor& y) {
  const QuantizedActivations activations(pool, kernels, x, weights);
  const PackedKernels::MatVec mat_vec = kernels.mat_vec[weights.format];
  const int64_t n_rows = weights.layout.rows;
  const int64_t n_tiles = weights.geometry.n_row_tiles;
  const int64_t per_task = tiles_per_task(weights.geometry);
  float* out = y.data<float>();
  pool.parallel_for((n_tiles + per_task - 1) / per_task, [&](int64_t task, int) {
    const int64_t end = std::min(n_tiles, (task + 1) * per_task);
    for (int64_t tile = task * per_task; tile < end; ++tile) {
      const int64_t first_row = tile * kTileRows;
      const int64_t rows = std::min(kTileRows, n_rows - first_row);
      // The tile stays in L1 or L2 for the later passes.
      for (int64_t first = 0; first < x.rows(); first += kTokensPerPass) {
        const int64_t count = std::min(kTokensPerPass, x.rows() - first);
        std::array<float, kTokensPerPass * kTileRows> result;
        mat_vec(weights.tile(tile), activations.tokens(first, count), result.data());
        for (int64_t t = 0; t < count; ++t) {
          float* target = out + (first + t) * n_rows + first_row;
          const float* source = result.data() + t * kTileRows;
          for (int64_t r = 0; r < rows; ++r) {
            target[r] = bias == nullptr ? source[r] : source[r] + bias[first_row + r];
          }
        }
      }
    }
  });
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
void dequantize_rows(const PackedKernels& kernels, const Weights& weights, int64_t index, T* out,
                     int64_t row_stride) {
  const PackedTile tile = weights.tile(index);
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
  // A panel should stay in a 1 MB L2 beside the tokens that pass it.
  const int64_t panel_tiles = 64 * stride * static_cast<int64_t>(sizeof(T)) <= (640 << 10) ? 4 : 2;
  const int64_t n_tiles = weights.geometry.n_row_tiles;
  Matrix<T> panels(pool.n_threads(), panel_tiles * kTileRows * stride);
  float* out = y.data<float>();
  pool.parallel_for((n_tiles + panel_tiles - 1) / panel_tiles, [&](int64_t task, int worker) {
    T* panel = panels.row(worker);
    const int64_t first_tile = task * panel_tiles;
    const int64_t end_tile = std::min(n_tiles, first_tile + panel_tiles);
    for (int64_t tile = first_tile; tile < end_tile; ++tile) {
      dequantize_rows(kernels, weights, tile, panel + (tile - first_tile) * kTileRows * stride,
                      stride);
    }
    const int64_t first_row = first_tile * kTileRows;
    const int64_t rows = std::min(end_tile * kTileRows, n_rows) - first_row;
    gemm(n_tokens, rows, n_cols, x, panel, stride, out + first_row, n_rows);
    if (bias != nullptr) add_bias(out + first_row, n_tokens, n_rows, bias + first_row, rows);
  });
}

}  // namespace

void packed_linear_cpu(ThreadPool& pool, const PackedKernels& kernels, const Tensor& x,
                       const PackedView& w, const Tensor& bias, const Tensor& y, DType products) {
  check_shapes(x, w, bias, y, products);
  if (x.rows() == 0) return;
  const Weights weights(w);
  const float* bias_data = bias.empty() ? nullptr : bias.data<float>();
  if (x.rows() <= max_mat_vec_tokens(w.layout.kind)) {
    multiply_codes(pool, kernels, x, weights, bias_data, y);
  } else if (products == DType::kF32) {
    if (x.dtype() == DType::kF32) {
      multiply_panels(pool, kernels, x.data<float>(), x.rows(), weights, bias_data, y);
    } else {
      const Matrix<float> wide = convert_rows<BFloat16, float>(pool, x);
      multiply_panels(pool, kernels, wide.data(), x.rows(), weights, bias_data, y);
    }
  } else if (x.dtype() == DType::kBF16) {
    multiply_panels(pool, kernels, x.data<BFloat16>(), x.rows(), weights, bias_data, y);
  } else {
    const Matrix<BFloat16> rounded = convert_rows<float, BFloat16>(pool, x);
    multiply_panels(pool, kernels, rounded.data(), x.rows(), weights, bias_data, y);
  }
}

}  // namespace d2q
