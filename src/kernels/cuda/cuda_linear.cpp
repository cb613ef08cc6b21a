// Matrix products: dense and packed linears, Gram and cross matrices.
#include <algorithm>

#include "codec/packed_geometry.h"
#include "kernels/cuda/cuda_decode_product.h"
#include "kernels/cuda/cuda_forward_ops.h"
#include "kernels/cuda/cuda_packed_kernels.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

// Tokens whose products one call sums before they join the total. Tensor cores cut off sums instead
// of rounding them, so the error of a sum of squares grows with the length of the chain: about
// 2^-24 for each 16 tokens, 1.5e-5 in all at most; longer chains would save little traffic.
constexpr int64_t kTokenSlice = 4096;
/// 256 tiles of 128 x 256 sums, which is how products are cut: two for each multiprocessor.
constexpr int64_t kPanelElements = 1 << 23;
/// Of the expanded rows of a packed matrix: enough for a full-speed product, small beside a model.
constexpr int64_t kPanelBytes = 64 << 20;

/// y = bias in every row, if there is one; returns the factor of y in the product that follows.
float start_with_bias(CudaContext& context, const Tensor& bias, const Tensor& y) {
  if (bias.empty()) return 0.0f;
  check_cuda(cuda::launch_fill_rows(bias.data<float>(), y.rows(), y.cols(), y.data<float>(),
                                    context.stream()),
             "bias");
  return 1.0f;
}

/// Columns [first, first + w.rows()) of y = x wᵀ + beta y; x and w of one dtype.
void multiply(CudaContext& context, const Tensor& x, const Tensor& w, float beta, const Tensor& y,
              int64_t first) {
  run_gemm(context, {.transpose_b = true,
                     .m = x.rows(),
                     .n = w.rows(),
                     .k = x.cols(),
                     .a = x.raw(),
                     .lda = x.cols(),
                     .b = w.raw(),
                     .ldb = w.cols(),
                     .input = x.dtype(),
                     .c = y.data<float>() + first,
                     .ldc = y.cols(),
                     .beta = beta});
}

/// sum[row:, column : column + width] += scale a[:, row:]ᵀ b[:, column : column + width].
void accumulate_panel(CudaContext& context, const Tensor& a, const Tensor& b, int64_t row,
                      int64_t column, int64_t width, float scale, const Tensor& sum) {
  const int64_t n = a.cols(), element = size_of(a.dtype());
  for (int64_t begin = 0; begin < a.rows(); begin += kTokenSlice) {
    const auto at = [&](const Tensor& x, int64_t first) {
      return static_cast<const std::byte*>(x.raw()) + (begin * n + first) * element;
    };
    run_gemm(context, {.transpose_a = true,
                       .m = n - row,
                       .n = width,
                       .k = std::min(kTokenSlice, a.rows() - begin),
                       .a = at(a, row),
                       .lda = n,
                       .b = at(b, column),
                       .ldb = n,
                       .input = a.dtype(),
                       .c = sum.data<float>() + row * n + column,
                       .ldc = n,
                       .alpha = scale,
                       .beta = 1.0f});
  }
}

}  // namespace

void linear_cuda(CudaContext& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                 const Tensor& y) {
  check_linear(x, w, bias, y);
  if (y.empty()) return;
  const float beta = start_with_bias(context, bias, y);
  multiply(context, in_dtype(context, x, w.dtype()), w, beta, y, 0);
}

void packed_linear_cuda(CudaContext& context, const Tensor& x, const PackedTensor& w,
                        const Tensor& bias, const Tensor& y, DType products) {
  check_packed_linear(x, w.layout, bias, y, products);
  if (y.empty()) return;
  const cuda::PackedWeights weights = packed_weights(w);
  if (products == DType::kBF16 && x.rows() <= kMaxQuantizedTokens && is_decodable(w)) {
    const Linear linear{.dense = {}, .packed = w, .bias = bias};
    const Linear* const one = &linear;
    const Tensor wide = in_dtype(context, x, DType::kF32);
    for (int64_t begin = 0; begin < x.rows(); begin += cuda::kMaxDecodeTokens) {
      const int64_t count = std::min<int64_t>(cuda::kMaxDecodeTokens, x.rows() - begin);
      const cuda::DecodeProduct product = decode_product(
          wide.row_range(begin, count), nullptr, std::span(&one, 1), cuda::ProductOutput::kStore,
          cuda::Curve::kSilu, y.row_range(begin, count), 0);
      const std::shared_ptr<void> memory = context.allocate_bytes(product_input_bytes(product));
      launch_product(context, product, memory.get());
    }
    return;
  }
  if (x.rows() <= cuda::kMaxPackedTokens) {
    const Tensor wide = in_dtype(context, x, DType::kF32);
    check_cuda(cuda::launch_packed_product(weights, wide.data<float>(), x.rows(),
                                           bias.empty() ? nullptr : bias.data<float>(),
                                           y.data<float>(), context.stream()),
               "packed product");
    return;
  }
  const Tensor input = in_dtype(context, x, products);
  const float beta = start_with_bias(context, bias, y);
  const int64_t n_tiles = w.layout.n_row_tiles();
  const int64_t tile_bytes = kTileRows * w.layout.cols * size_of(products);
  const int64_t panel_tiles = std::clamp<int64_t>(kPanelBytes / tile_bytes, 1, n_tiles);
  const Tensor panel = context.allocate(panel_tiles * kTileRows, w.layout.cols, products);
  for (int64_t tile = 0; tile < n_tiles; tile += panel_tiles) {
    const int64_t count = std::min(panel_tiles, n_tiles - tile);
    check_cuda(cuda::launch_expand(weights, tile, count, values_of(panel), context.stream()),
               "expanding packed weights");
    const int64_t first = tile * kTileRows;
    const int64_t rows = std::min(count * kTileRows, w.layout.rows - first);
    multiply(context, input, panel.row_range(0, rows), beta, y, first);
  }
}

void accumulate_gram_cuda(CudaContext& context, const Tensor& x, float scale, const Tensor& sum) {
  check_accumulation(x, x, sum);
  // Panels of columns, each from its diagonal down: with eight, a little more than half of the
  // work. A panel of less than kPanelElements would leave multiprocessors idle and save no time.
  const int64_t n = x.cols();
  const int64_t wanted = std::max<int64_t>({n / 8, kPanelElements / std::max<int64_t>(1, n), 1});
  const int64_t width = (wanted + 255) / 256 * 256;
  for (int64_t column = 0; column < n; column += width) {
    accumulate_panel(context, x, x, column, column, std::min(width, n - column), scale, sum);
  }
}

void accumulate_cross_cuda(CudaContext& context, const Tensor& a, const Tensor& b, float scale,
                           const Tensor& sum) {
  check_accumulation(a, b, sum);
  accumulate_panel(context, a, b, 0, 0, a.cols(), scale, sum);
}

}  // namespace d2q
