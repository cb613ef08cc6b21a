// Sums over tokens: Gram and cross matrices, moments of a difference (METHOD.md §4, §6).
#include <cmath>

#include "kernels/cpu/forward_ops.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kTile = 256;
// Tokens whose products are summed in f32 before they join the total: the relative error grows with
// the root of the longest chain, not of all tokens. Longer slices ran 10 % slower (second-level
// cache).
constexpr int64_t kTokenSlice = 1024;

/// The tile [row, row + m) x [column, column + n) of sum += scale aᵀ b.
template <typename T>
void accumulate_tile(CpuContext& context, const T* a, const T* b, int64_t tokens, int64_t width,
                     int64_t row, int64_t column, int64_t m, int64_t n, float scale, float* sum,
                     int worker) {
  float* tile = context.scratch(worker).first.reserve<float>(m * n);
  for (int64_t begin = 0; begin < tokens; begin += kTokenSlice) {
    const int64_t count = std::min(kTokenSlice, tokens - begin);
    const T* left = a + begin * width + row;
    const T* right = b + begin * width + column;
    if constexpr (std::is_same_v<T, float>) {
      gemm_f32(true, false, m, n, count, left, width, right, width, 0.0f, tile, n);
    } else {
      context.multiply_bf16(true, false, m, n, count, left, width, right, width, 0.0f, tile, n);
    }
    for (int64_t i = 0; i < m; ++i) {
      context.kernels.multiply_add(sum + (row + i) * width + column, scale, tile + i * n, n);
    }
  }
}

void accumulate(CpuContext& context, const Tensor& a, const Tensor& b, float scale,
                const Tensor& sum, bool lower_only) {
  const int64_t n = a.cols();
  check_accumulation(a, b, sum);
  const int64_t tile = even_block(n, kTile);
  const int64_t n_tiles = (n + tile - 1) / tile;
  context.pool.parallel_for(n_tiles * n_tiles, [&](int64_t task, int worker) {
    const int64_t row = task / n_tiles * tile, column = task % n_tiles * tile;
    if (lower_only && column > row) return;
    const int64_t height = std::min(tile, n - row), width = std::min(tile, n - column);
    if (a.dtype() == DType::kF32) {
      accumulate_tile(context, a.data<float>(), b.data<float>(), a.rows(), n, row, column, height,
                      width, scale, sum.data<float>(), worker);
    } else {
      accumulate_tile(context, a.data<BFloat16>(), b.data<BFloat16>(), a.rows(), n, row, column,
                      height, width, scale, sum.data<float>(), worker);
    }
  });
}

}  // namespace

void accumulate_gram_cpu(CpuContext& context, const Tensor& x, float scale, const Tensor& sum) {
  accumulate(context, x, x, scale, sum, true);
}

void accumulate_cross_cpu(CpuContext& context, const Tensor& a, const Tensor& b, float scale,
                          const Tensor& sum) {
  accumulate(context, a, b, scale, sum, false);
}

void mirror_lower_cpu(CpuContext& context, const Tensor& matrix) {
  const int64_t n = matrix.rows();
  D2Q_CHECK(matrix.cols() == n, "{}x{} is not square", n, matrix.cols());
  float* values = matrix.data<float>();
  // Square blocks: rows of the lower triangle are columns of the upper one.
  constexpr int64_t kBlock = 64;
  const int64_t n_blocks = (n + kBlock - 1) / kBlock;
  context.pool.parallel_for(n_blocks, [&](int64_t block, int) {
    const int64_t row_end = std::min(n, (block + 1) * kBlock);
    for (int64_t first = 0; first <= block * kBlock; first += kBlock) {
      for (int64_t i = block * kBlock; i < row_end; ++i) {
        for (int64_t j = first; j < std::min(first + kBlock, i); ++j)
          values[j * n + i] = values[i * n + j];
      }
    }
  });
}

void accumulate_difference_cpu(CpuContext& context, const Tensor& a, const Tensor& b,
                               const Tensor& moments) {
  const int64_t n = a.cols();
  D2Q_CHECK(b.cols() == n && a.rows() == b.rows() && moments.rows() == 2 && moments.cols() == n,
            "{}x{}, {}x{}, moments {}x{}", a.rows(), n, b.rows(), b.cols(), moments.rows(),
            moments.cols());
  double* sums = moments.data<double>();
  double* squares = sums + n;
  context.for_blocks(n, 64, [&](int64_t begin, int64_t end, int worker) {
    float* left = context.scratch(worker).first.reserve<float>(end - begin);
    float* right = context.scratch(worker).second.reserve<float>(end - begin);
    for (int64_t row = 0; row < a.rows(); ++row) {
      const float* x = row_as_f32(context.kernels, a, row, begin, end, left);
      const float* y = row_as_f32(context.kernels, b, row, begin, end, right);
      for (int64_t j = begin; j < end; ++j) {
        const double difference =
            static_cast<double>(x[j - begin]) - static_cast<double>(y[j - begin]);
        sums[j] += difference;
        squares[j] += difference * difference;
      }
    }
  });
}

int64_t first_non_finite_row_cpu(CpuContext& context, const Tensor& x) {
  constexpr int64_t kRows = 64;
  const int64_t n_blocks = (x.rows() + kRows - 1) / kRows;
  std::vector<int64_t> found(static_cast<size_t>(n_blocks), -1);
  context.for_blocks(x.rows(), kRows, [&](int64_t begin, int64_t end, int worker) {
    float* buffer = context.scratch(worker).first.reserve<float>(x.cols());
    for (int64_t row = begin; row < end; ++row) {
      const float* values = row_as_f32(context.kernels, x, row, 0, x.cols(), buffer);
      // x - x is 0 for finite x and NaN otherwise; NaN survives the sum.
      float sum = 0.0f;
      for (int64_t i = 0; i < x.cols(); ++i) sum += values[i] - values[i];
      if (sum != 0.0f || std::isnan(sum)) {
        found[static_cast<size_t>(begin / kRows)] = row;
        return;
      }
    }
  });
  for (const int64_t row : found) {
    if (row >= 0) return row;
  }
  return -1;
}

}  // namespace d2q
