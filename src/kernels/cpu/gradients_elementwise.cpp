// Backward of norms, rope, activations and biases: one pass over rows each.
#include <cmath>

#include "kernels/cpu/gradients.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kValuesPerTask = 1 << 15;
// Rows whose contributions to a gain or bias are summed in f32; tasks' sums are added in f64.
constexpr int64_t kRowsPerSum = 64;

int64_t rows_per_task(int64_t cols) {
  return std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(1, cols));
}

void check_f32(const Tensor& x, int64_t rows, int64_t cols, const char* what) {
  D2Q_CHECK(x.rows() == rows && x.cols() == cols && x.dtype() == DType::kF32,
            "{} {}x{} of dtype {}, expected f32 {}x{}", what, x.rows(), x.cols(),
            static_cast<int>(x.dtype()), rows, cols);
}

/// total += the rows of partial [n_parts, stride], in order; columns [first, first + size).
void add_parts(CpuContext& context, const float* partial, int64_t n_parts, int64_t stride,
               int64_t first, const Tensor& total) {
  if (total.empty()) return;
  float* sums = total.data<float>();
  context.for_blocks(total.size(), 256, [&](int64_t begin, int64_t end, int worker) {
    double* wide = context.scratch(worker).first.reserve<double>(end - begin);
    std::fill(wide, wide + (end - begin), 0.0);
    for (int64_t part = 0; part < n_parts; ++part) {
      const float* values = partial + part * stride + first;
      for (int64_t j = begin; j < end; ++j) wide[j - begin] += static_cast<double>(values[j]);
    }
    for (int64_t j = begin; j < end; ++j) {
      sums[j] = static_cast<float>(static_cast<double>(sums[j]) + wide[j - begin]);
    }
  });
}

/// The gradients of activations that have no vectorised loop.
void activation_row(Activation act, const float* gate, const float* up, const float* d_y, int64_t n,
                    float* d_gate, float* d_up) {
  constexpr float kRootHalf = 0.70710678f;
  constexpr float kNormalPeak = 0.39894228f;  // the normal density at 0
  for (int64_t i = 0; i < n; ++i) {
    const float x = gate[i], gradient = d_y[i];
    float value = x < 0.0f ? 0.0f : x, slope = x > 0.0f ? 1.0f : 0.0f;
    if (act == Activation::kGelu) {
      const float below = 0.5f * (1.0f + std::erf(x * kRootHalf));
      value = x * below;
      slope = below + x * kNormalPeak * std::exp(-0.5f * x * x);
    }
    const float factor = up != nullptr ? gradient * up[i] : gradient;
    if (up != nullptr) d_up[i] = gradient * value;
    d_gate[i] = factor * slope;
  }
}

}  // namespace

void norm_gradient(GradientContext& context, const Tensor& x, const NormParams& params,
                   const Tensor& d_y, const Tensor& d_x, const Tensor& d_gain,
                   const Tensor& d_shift) {
  const int64_t rows = x.rows(), n = x.cols();
  check_f32(x, rows, n, "x");
  check_f32(d_y, rows, n, "d_y");
  check_f32(d_x, rows, n, "d_x");
  D2Q_CHECK(params.gain.size() == n, "gain of {} for {}", params.gain.size(), n);
  D2Q_CHECK(d_gain.empty() || d_gain.size() == n, "d_gain of {} for {}", d_gain.size(), n);
  D2Q_CHECK(d_shift.empty() || d_shift.size() == n, "d_shift of {} for {}", d_shift.size(), n);
  if (x.empty()) return;
  const int64_t n_parts = (rows + kRowsPerSum - 1) / kRowsPerSum;
  float* partial = context.partial.reserve<float>(n_parts * 2 * n);
  context.forward.for_blocks(rows, kRowsPerSum, [&](int64_t begin, int64_t end, int) {
    float* gain_part = partial + begin / kRowsPerSum * 2 * n;
    std::fill(gain_part, gain_part + 2 * n, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      context.kernels.norm(x.data<float>() + row * n, params.gain.data<float>(),
                           d_y.data<float>() + row * n, params.kind == NormKind::kLayer,
                           params.epsilon, n, d_x.data<float>() + row * n, gain_part,
                           gain_part + n);
    }
  });
  add_parts(context.forward, partial, n_parts, 2 * n, 0, d_gain);
  add_parts(context.forward, partial, n_parts, 2 * n, n, d_shift);
}

void rope_gradient(CpuContext& context, const Tensor& d_x, int64_t n_heads,
                   std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin) {
  check_rope(d_x, n_heads, positions, cos, sin);
  const int64_t head_dim = d_x.cols() / n_heads, half = cos.cols();
  context.for_blocks(
      d_x.rows(), rows_per_task(d_x.cols()), [&](int64_t begin, int64_t end, int worker) {
        float* opposite = context.scratch(worker).first.reserve<float>(half);
        for (int64_t row = begin; row < end; ++row) {
          const int64_t position = positions[static_cast<size_t>(row)];
          const float* sines = sin.data<float>() + position * half;
          for (int64_t i = 0; i < half; ++i) opposite[i] = -sines[i];
          for (int64_t head = 0; head < n_heads; ++head) {
            context.kernels.rotate(d_x.data<float>() + row * d_x.cols() + head * head_dim,
                                   cos.data<float>() + position * half, opposite, half);
          }
        }
      });
}

void activation_gradient(GradientContext& context, Activation act, const Tensor& gate,
                         const Tensor& up, const Tensor& d_y, const Tensor& d_gate,
                         const Tensor& d_up) {
  const int64_t rows = gate.rows(), cols = gate.cols();
  check_f32(gate, rows, cols, "gate");
  check_f32(d_y, rows, cols, "d_y");
  check_f32(d_gate, rows, cols, "d_gate");
  context.forward.for_blocks(gate.size(), kValuesPerTask, [&](int64_t begin, int64_t end, int) {
    const float* x = gate.data<float>() + begin;
    const float* factor = up.empty() ? nullptr : up.data<float>() + begin;
    const float* gradient = d_y.data<float>() + begin;
    float* d_x = d_gate.data<float>() + begin;
    float* d_factor = up.empty() ? nullptr : d_up.data<float>() + begin;
    if (act == Activation::kSilu) {
      context.kernels.silu(x, factor, gradient, end - begin, d_x, d_factor);
    } else if (act == Activation::kGeluTanh) {
      context.kernels.gelu_tanh(x, factor, gradient, end - begin, d_x, d_factor);
    } else {
      activation_row(act, x, factor, gradient, end - begin, d_x, d_factor);
    }
  });
}

void add_column_sums(GradientContext& context, const Tensor& d_y, const Tensor& d_bias) {
  const int64_t rows = d_y.rows(), n = d_y.cols();
  check_f32(d_y, rows, n, "d_y");
  D2Q_CHECK(d_bias.size() == n, "bias of {} for {}", d_bias.size(), n);
  const int64_t n_parts = (rows + kRowsPerSum - 1) / kRowsPerSum;
  float* partial = context.partial.reserve<float>(n_parts * n);
  context.forward.for_blocks(rows, kRowsPerSum, [&](int64_t begin, int64_t end, int) {
    float* part = partial + begin / kRowsPerSum * n;
    std::fill(part, part + n, 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      context.forward.kernels.add(part, d_y.data<float>() + row * n, n);
    }
  });
  add_parts(context.forward, partial, n_parts, n, 0, d_bias);
}

}  // namespace d2q
