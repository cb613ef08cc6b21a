// The two products of a linear layer's backward, tiled like its forward.
#include "kernels/cpu/forward_ops.h"
#include "kernels/cpu/gradients.h"

namespace d2q {
namespace {

// Tiles of the result; their whole inner dimension is one product.
constexpr int64_t kTileRows = 256;
constexpr int64_t kTileColumns = 512;

/// body(row, column, n_rows, n_columns) over tiles of [rows, cols], in parallel.
template <typename Body>
void for_tiles(CpuContext& context, int64_t rows, int64_t cols, Body&& body) {
  const int64_t height = even_block(rows, kTileRows), width = even_block(cols, kTileColumns);
  const int64_t row_tiles = (rows + height - 1) / height, column_tiles = (cols + width - 1) / width;
  context.pool.parallel_for(row_tiles * column_tiles, [&](int64_t task, int) {
    const int64_t row = task % row_tiles * height, column = task / row_tiles * width;
    body(row, column, std::min(height, rows - row), std::min(width, cols - column));
  });
}

void check_types(const Tensor& d_y, const Tensor& other, const Tensor& result) {
  const bool f32 = other.dtype() == DType::kF32;
  D2Q_CHECK(f32 || other.dtype() == DType::kBF16, "products in dtype {}",
            static_cast<int>(other.dtype()));
  D2Q_CHECK(d_y.dtype() == DType::kF32 || (!f32 && d_y.dtype() == DType::kBF16), "d_y in dtype {}",
            static_cast<int>(d_y.dtype()));
  D2Q_CHECK(result.dtype() == DType::kF32, "result in dtype {}", static_cast<int>(result.dtype()));
}

}  // namespace

void linear_input_gradient(CpuContext& context, const Tensor& d_y, const Tensor& w,
                           const Tensor& d_x, bool accumulate) {
  const int64_t tokens = d_y.rows(), out = w.rows(), in = w.cols();
  D2Q_CHECK(d_y.cols() == out && d_x.rows() == tokens && d_x.cols() == in,
            "{}x{} times {}x{} into {}x{}", tokens, d_y.cols(), out, in, d_x.rows(), d_x.cols());
  check_types(d_y, w, d_x);
  if (d_x.empty()) return;
  const bool f32 = w.dtype() == DType::kF32;
  const BFloat16* narrow = f32 ? nullptr : rounded_to_bf16(context, d_y);
  const float beta = accumulate ? 1.0f : 0.0f;
  for_tiles(context, tokens, in, [&](int64_t row, int64_t column, int64_t n_rows, int64_t n_cols) {
    float* tile = d_x.data<float>() + row * in + column;
    if (f32) {
      gemm_f32(false, false, n_rows, n_cols, out, d_y.data<float>() + row * out, out,
               w.data<float>() + column, in, beta, tile, in);
    } else {
      context.multiply_bf16(false, false, n_rows, n_cols, out, narrow + row * out, out,
                            w.data<BFloat16>() + column, in, beta, tile, in);
    }
  });
}

void linear_weight_gradient(CpuContext& context, const Tensor& d_y, const Tensor& x,
                            const Tensor& d_w) {
  const int64_t tokens = d_y.rows(), out = d_y.cols(), in = x.cols();
  D2Q_CHECK(x.rows() == tokens && d_w.rows() == out && d_w.cols() == in,
            "{}x{} transposed times {}x{} into {}x{}", tokens, out, x.rows(), in, d_w.rows(),
            d_w.cols());
  check_types(d_y, x, d_w);
  if (d_w.empty()) return;
  const bool f32 = x.dtype() == DType::kF32;
  const BFloat16* narrow = f32 ? nullptr : rounded_to_bf16(context, d_y);
  for_tiles(context, out, in, [&](int64_t row, int64_t column, int64_t n_rows, int64_t n_cols) {
    float* tile = d_w.data<float>() + row * in + column;
    if (f32) {
      gemm_f32(true, false, n_rows, n_cols, tokens, d_y.data<float>() + row, out,
               x.data<float>() + column, in, 0.0f, tile, in);
    } else {
      context.multiply_bf16(true, false, n_rows, n_cols, tokens, narrow + row, out,
                            x.data<BFloat16>() + column, in, 0.0f, tile, in);
    }
  });
}

}  // namespace d2q
