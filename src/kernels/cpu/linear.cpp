#include "kernels/cpu/forward_ops.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

// A tile of 256 tokens by 512 outputs keeps its operands in a 1 MB second-level cache for inputs of
// up to about 700 columns, and is large enough to hide oneDNN's copying of its operands beyond
// that.
constexpr int64_t kTileTokens = 256;
constexpr int64_t kTileOutputs = 512;
// Up to here a row of w is read once and multiplied with every token; beyond, tiles win.
constexpr int64_t kMaxDotTokens = 4;

void add_bias(const ForwardKernels& kernels, const Tensor& bias, const Tensor& y, int64_t first_row,
              int64_t last_row, int64_t begin, int64_t end) {
  if (bias.empty()) return;
  const float* values = bias.data<float>() + begin;
  for (int64_t row = first_row; row < last_row; ++row) {
    kernels.add(y.data<float>() + row * y.cols() + begin, values, end - begin);
  }
}

void linear_by_dots(CpuContext& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                    const Tensor& y) {
  const ForwardKernels& kernels = context.kernels;
  const int64_t tokens = x.rows(), in = w.cols(), out = w.rows();
  const float* input = nullptr;
  if (w.dtype() == DType::kF32) {
    input = x.data<float>();
  } else {
    // Rounded to bf16 as the contract says, then widened: the products are exact in f32.
    auto* wide = context.input.reserve<float>(x.size() + (x.size() + 1) / 2);
    auto* narrow = reinterpret_cast<uint16_t*>(wide + x.size());
    if (x.dtype() == DType::kF32) kernels.f32_to_bf16(x.data<float>(), narrow, x.size());
    kernels.bf16_to_f32(x.dtype() == DType::kF32 ? narrow : &x.data<BFloat16>()->bits, wide,
                        x.size());
    input = wide;
  }
  context.for_blocks(out, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t token = 0; token < tokens; ++token) {
        const float* values = input + token * in;
        y.data<float>()[token * out + row] =
            w.dtype() == DType::kF32
                ? kernels.dot_f32(w.data<float>() + row * in, values, in)
                : kernels.dot_bf16(&w.data<BFloat16>()[row * in].bits, values, in);
      }
    }
    add_bias(kernels, bias, y, 0, tokens, begin, end);
  });
}

}  // namespace

const BFloat16* rounded_to_bf16(CpuContext& context, const Tensor& x) {
  if (x.dtype() == DType::kBF16) return x.data<BFloat16>();
  auto* rounded = context.input.reserve<BFloat16>(x.size());
  const float* source = x.data<float>();
  context.for_blocks(x.size(), 1 << 15, [&](int64_t begin, int64_t end, int) {
    context.kernels.f32_to_bf16(source + begin, &rounded[begin].bits, end - begin);
  });
  return rounded;
}

void linear_cpu(CpuContext& context, const Tensor& x, const Tensor& w, const Tensor& bias,
                const Tensor& y) {
  const int64_t tokens = x.rows(), in = w.cols(), out = w.rows();
  check_linear(x, w, bias, y);
  if (y.empty()) return;
  if (tokens <= kMaxDotTokens) return linear_by_dots(context, x, w, bias, y);

  const bool f32 = w.dtype() == DType::kF32;
  const BFloat16* narrow = f32 ? nullptr : rounded_to_bf16(context, x);
  const int64_t tile_tokens = even_block(tokens, kTileTokens);
  const int64_t tile_outputs = even_block(out, kTileOutputs);
  const int64_t row_tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const int64_t column_tiles = (out + tile_outputs - 1) / tile_outputs;
  float* result = y.data<float>();
  context.pool.parallel_for(row_tiles * column_tiles, [&](int64_t task, int) {
    const int64_t row = task % row_tiles * tile_tokens;
    const int64_t column = task / row_tiles * tile_outputs;
    const int64_t n_rows = std::min(tile_tokens, tokens - row);
    const int64_t n_columns = std::min(tile_outputs, out - column);
    if (f32) {
      gemm_f32(false, true, n_rows, n_columns, in, x.data<float>() + row * in, in,
               w.data<float>() + column * in, in, 0.0f, result + row * out + column, out);
    } else {
      context.multiply_bf16(false, true, n_rows, n_columns, in, narrow + row * in, in,
                            w.data<BFloat16>() + column * in, in, 0.0f, result + row * out + column,
                            out);
    }
    add_bias(context.kernels, bias, y, row, row + n_rows, column, column + n_columns);
  });
}

}  // namespace d2q
