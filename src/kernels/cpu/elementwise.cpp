// Conversions, embedding, norms, rope, activations and sums: one pass over rows each.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/cpu/forward_ops.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kValuesPerTask = 1 << 15;

int64_t rows_per_task(int64_t cols) {
  return std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(1, cols));
}

double to_double(const Tensor& x, int64_t i) {
  switch (x.dtype()) {
    case DType::kF32:
      return static_cast<double>(x.data<float>()[i]);
    case DType::kBF16:
      return static_cast<double>(to_float(x.data<BFloat16>()[i]));
    case DType::kF16:
      return static_cast<double>(to_float(x.data<Half>()[i]));
    default:
      return x.data<double>()[i];
  }
}

void from_double(double value, const Tensor& y, int64_t i) {
  switch (y.dtype()) {
    case DType::kF32:
      y.data<float>()[i] = static_cast<float>(value);
      break;
    case DType::kBF16:
      y.data<BFloat16>()[i] = to_bfloat16(static_cast<float>(value));
      break;
    case DType::kF16:
      y.data<Half>()[i] = to_half(static_cast<float>(value));
      break;
    default:
      y.data<double>()[i] = value;
      break;
  }
}

/// Writes f32 values to columns of an f32 or bf16 tensor.
void write_row(const ForwardKernels& kernels, const float* values, const Tensor& y, int64_t row) {
  const int64_t offset = row * y.cols();
  if (y.dtype() == DType::kBF16) {
    kernels.f32_to_bf16(values, &y.data<BFloat16>()[offset].bits, y.cols());
  } else if (values != y.data<float>() + offset) {
    std::memcpy(y.data<float>() + offset, values, static_cast<size_t>(y.cols()) * sizeof(float));
  }
}

/// Where to compute a row of y: in place when y is f32, else in the worker's buffer.
float* row_target(CpuContext& context, const Tensor& y, int64_t row, int worker) {
  if (y.dtype() == DType::kF32) return y.data<float>() + row * y.cols();
  return context.scratch(worker).first.reserve<float>(y.cols());
}

void activate_row(const ForwardKernels& kernels, Activation act, const float* x, const float* up,
                  int64_t n, float* y) {
  switch (act) {
    case Activation::kSilu:
      return kernels.silu(x, up, n, y);
    case Activation::kGeluTanh:
      return kernels.gelu_tanh(x, up, n, y);
    case Activation::kGelu:
      for (int64_t i = 0; i < n; ++i) {
        const float value = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
        y[i] = up != nullptr ? value * up[i] : value;
      }
      return;
    case Activation::kRelu:
      for (int64_t i = 0; i < n; ++i) {
        const float value = x[i] < 0.0f ? 0.0f : x[i];
        y[i] = up != nullptr ? value * up[i] : value;
      }
      return;
  }
}

}  // namespace

const float* row_as_f32(const ForwardKernels& kernels, const Tensor& x, int64_t row, int64_t begin,
                        int64_t end, float* buffer) {
  const int64_t offset = row * x.cols() + begin;
  switch (x.dtype()) {
    case DType::kBF16:
      kernels.bf16_to_f32(&x.data<BFloat16>()[offset].bits, buffer, end - begin);
      return buffer;
    case DType::kF16:
      kernels.f16_to_f32(&x.data<Half>()[offset].bits, buffer, end - begin);
      return buffer;
    default:
      return x.data<float>() + offset;
  }
}

void convert_cpu(CpuContext& context, const Tensor& source, const Tensor& destination) {
  D2Q_CHECK(source.rows() == destination.rows() && source.cols() == destination.cols(),
            "{}x{} to {}x{}", source.rows(), source.cols(), destination.rows(), destination.cols());
  const DType from = source.dtype(), to = destination.dtype();
  for (const DType type : {from, to}) {
    D2Q_CHECK(type != DType::kU8 && type != DType::kI32, "dtype {}", static_cast<int>(type));
  }
  if (source.empty()) return;
  const ForwardKernels& kernels = context.kernels;
  context.for_blocks(source.size(), kValuesPerTask, [&](int64_t begin, int64_t end, int) {
    const int64_t n = end - begin;
    if (from == to) {
      std::memmove(static_cast<std::byte*>(destination.raw()) + begin * size_of(to),
                   static_cast<const std::byte*>(source.raw()) + begin * size_of(from),
                   static_cast<size_t>(n * size_of(from)));
    } else if (from == DType::kF32 && to == DType::kBF16) {
      kernels.f32_to_bf16(source.data<float>() + begin, &destination.data<BFloat16>()[begin].bits,
                          n);
    } else if (from == DType::kF32 && to == DType::kF16) {
      kernels.f32_to_f16(source.data<float>() + begin, &destination.data<Half>()[begin].bits, n);
    } else if (from == DType::kBF16 && to == DType::kF32) {
      kernels.bf16_to_f32(&source.data<BFloat16>()[begin].bits, destination.data<float>() + begin,
                          n);
    } else if (from == DType::kF16 && to == DType::kF32) {
      kernels.f16_to_f32(&source.data<Half>()[begin].bits, destination.data<float>() + begin, n);
    } else {
      for (int64_t i = begin; i < end; ++i) from_double(to_double(source, i), destination, i);
    }
  });
}

void embed_cpu(CpuContext& context, std::span<const int32_t> ids, const Tensor& table,
               const Tensor& y) {
  const auto n = static_cast<int64_t>(ids.size());
  D2Q_CHECK(y.rows() == n && y.cols() == table.cols() && y.dtype() == DType::kF32,
            "{} ids of width {} into {}x{}", n, table.cols(), y.rows(), y.cols());
  for (const int32_t id : ids) {
    D2Q_CHECK(id >= 0 && id < table.rows(), "id {} of {}", id, table.rows());
  }
  context.for_blocks(n, rows_per_task(y.cols()), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = y.data<float>() + row * y.cols();
      write_row(
          context.kernels,
          row_as_f32(context.kernels, table, ids[static_cast<size_t>(row)], 0, y.cols(), target), y,
          row);
    }
  });
}

void norm_cpu(CpuContext& context, const Tensor& x, const NormParams& params, const Tensor& y) {
  check_output(x, y);
  D2Q_CHECK(params.gain.size() == x.cols(), "gain of {} for {}", params.gain.size(), x.cols());
  D2Q_CHECK(params.shift.empty() || params.shift.size() == x.cols(), "shift of {} for {}",
            params.shift.size(), x.cols());
  const auto normalise =
      params.kind == NormKind::kRms ? context.kernels.rms_norm : context.kernels.layer_norm;
  const float* shift = params.shift.empty() ? nullptr : params.shift.data<float>();
  context.for_blocks(x.rows(), rows_per_task(x.cols()),
                     [&](int64_t begin, int64_t end, int worker) {
                       for (int64_t row = begin; row < end; ++row) {
                         float* target = row_target(context, y, row, worker);
                         normalise(x.data<float>() + row * x.cols(), params.gain.data<float>(),
                                   shift, params.epsilon, x.cols(), target);
                         write_row(context.kernels, target, y, row);
                       }
                     });
}

void rope_cpu(CpuContext& context, const Tensor& x, int64_t n_heads,
              std::span<const int32_t> positions, const Tensor& cos, const Tensor& sin) {
  check_rope(x, n_heads, positions, cos, sin);
  const int64_t head_dim = x.cols() / n_heads, half = cos.cols();
  context.for_blocks(x.rows(), rows_per_task(x.cols()), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t position = positions[static_cast<size_t>(row)];
      for (int64_t head = 0; head < n_heads; ++head) {
        context.kernels.rotate(x.data<float>() + row * x.cols() + head * head_dim,
                               cos.data<float>() + position * half,
                               sin.data<float>() + position * half, half);
      }
    }
  });
}

void activation_cpu(CpuContext& context, Activation act, const Tensor& x, const Tensor& y) {
  gated_activation_cpu(context, act, x, Tensor(), y);
}

void gated_activation_cpu(CpuContext& context, Activation act, const Tensor& gate, const Tensor& up,
                          const Tensor& y) {
  check_output(gate, y);
  D2Q_CHECK(up.empty() || (up.rows() == y.rows() && up.cols() == y.cols()), "up {}x{}", up.rows(),
            up.cols());
  const int64_t cols = y.cols();
  context.for_blocks(y.rows(), rows_per_task(cols), [&](int64_t begin, int64_t end, int worker) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = row_target(context, y, row, worker);
      activate_row(context.kernels, act, gate.data<float>() + row * cols,
                   up.empty() ? nullptr : up.data<float>() + row * cols, cols, target);
      write_row(context.kernels, target, y, row);
    }
  });
}

void add_cpu(CpuContext& context, const Tensor& x, const Tensor& y) {
  D2Q_CHECK(x.rows() == y.rows() && x.cols() == y.cols(), "{}x{} and {}x{}", x.rows(), x.cols(),
            y.rows(), y.cols());
  const int64_t cols = x.cols();
  context.for_blocks(x.rows(), rows_per_task(cols), [&](int64_t begin, int64_t end, int worker) {
    float* buffer = context.scratch(worker).first.reserve<float>(cols);
    for (int64_t row = begin; row < end; ++row) {
      context.kernels.add(x.data<float>() + row * cols,
                          row_as_f32(context.kernels, y, row, 0, cols, buffer), cols);
    }
  });
}

namespace {

/// log Σ exp of a row. f32 sums of 1024 terms, then f64: their relative error stays near 1e-6 for
/// any vocabulary.
double log_sum(const ForwardKernels& kernels, const float* values, int64_t n) {
  constexpr int64_t kSlice = 1024;
  const float top = kernels.maximum(values, n);
  double sum = 0.0;
  for (int64_t i = 0; i < n; i += kSlice) {
    sum += static_cast<double>(
        kernels.exp_sum(values + i, std::min(kSlice, n - i), 1.0f, top, nullptr));
  }
  return std::log(sum) + static_cast<double>(top);
}

/// KL(softmax(expected) || softmax(found)), given the rows' log sums.
double divergence(const ForwardKernels& kernels, const float* expected, const float* found,
                  int64_t n, double expected_log_sum, double found_log_sum) {
  constexpr int64_t kSlice = 1024;
  // Over Σ p (expected - found) with a shift of exactly the f32 that the exponentials take.
  const auto shift = static_cast<float>(expected_log_sum);
  double sum = 0.0;
  double weighted = 0.0;
  std::array<float, kSlice> probabilities;
  for (int64_t begin = 0; begin < n; begin += kSlice) {
    const int64_t count = std::min(kSlice, n - begin);
    sum += static_cast<double>(
        kernels.exp_sum(expected + begin, count, 1.0f, shift, probabilities.data()));
    for (int64_t i = 0; i < count; ++i) {
      weighted +=
          static_cast<double>(probabilities[static_cast<size_t>(i)]) *
          (static_cast<double>(expected[begin + i]) - static_cast<double>(found[begin + i]));
    }
  }
  return weighted / sum - expected_log_sum + found_log_sum;
}

/// d = factor · (softmax(found) − softmax(expected)), given the rows' log sums. d may be `found`.
void divergence_gradient(const ForwardKernels& kernels, const float* expected, const float* found,
                         int64_t n, double expected_log_sum, double found_log_sum, float factor,
                         float* d) {
  constexpr int64_t kSlice = 1024;
  std::array<float, kSlice> wanted;
  std::array<float, kSlice> given;
  for (int64_t begin = 0; begin < n; begin += kSlice) {
    const int64_t count = std::min(kSlice, n - begin);
    kernels.exp_sum(expected + begin, count, 1.0f, static_cast<float>(expected_log_sum),
                    wanted.data());
    kernels.exp_sum(found + begin, count, 1.0f, static_cast<float>(found_log_sum), given.data());
    for (size_t i = 0; i < static_cast<size_t>(count); ++i)
      d[static_cast<size_t>(begin) + i] = factor * (given[i] - wanted[i]);
  }
}

}  // namespace

void cross_entropy_cpu(CpuContext& context, const Tensor& logits, std::span<const int32_t> targets,
                       std::span<double> losses) {
  const int64_t n = logits.cols();
  D2Q_CHECK(
      static_cast<int64_t>(targets.size()) == logits.rows() && losses.size() == targets.size(),
      "{} targets and {} losses for {} rows", targets.size(), losses.size(), logits.rows());
  for (const int32_t target : targets)
    D2Q_CHECK(target >= 0 && target < n, "target {} of {}", target, n);
  context.for_blocks(logits.rows(), rows_per_task(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* values = logits.data<float>() + row * n;
      const double target = values[targets[static_cast<size_t>(row)]];
      losses[static_cast<size_t>(row)] = log_sum(context.kernels, values, n) - target;
    }
  });
}

void compare_logits_cpu(CpuContext& context, const Tensor& reference, const Tensor& logits,
                        std::span<const int32_t> targets, std::span<LogitComparison> comparisons) {
  check_compare_logits(reference, logits, targets, comparisons);
  const int64_t n = logits.cols();
  context.for_blocks(logits.rows(), rows_per_task(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const auto index = static_cast<size_t>(row);
      const float* expected = reference.data<float>() + row * n;
      const float* found = logits.data<float>() + row * n;
      const double expected_sum = log_sum(context.kernels, expected, n);
      const double found_sum = log_sum(context.kernels, found, n);
      LogitComparison& comparison = comparisons[index];
      comparison.divergence =
          divergence(context.kernels, expected, found, n, expected_sum, found_sum);
      comparison.reference_loss = expected_sum - static_cast<double>(expected[targets[index]]);
      comparison.loss = found_sum - static_cast<double>(found[targets[index]]);
      comparison.same_top = std::max_element(expected, expected + n) - expected ==
                            std::max_element(found, found + n) - found;
    }
  });
}

double divergence_cpu(CpuContext& context, const Tensor& reference, const Tensor& logits,
                      float factor, const Tensor& d_logits) {
  check_divergence(reference, logits, d_logits);
  const int64_t n = logits.cols();
  std::vector<double> divergences(static_cast<size_t>(logits.rows()));
  context.for_blocks(logits.rows(), rows_per_task(n), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* expected = reference.data<float>() + row * n;
      const float* found = logits.data<float>() + row * n;
      const double expected_sum = log_sum(context.kernels, expected, n);
      const double found_sum = log_sum(context.kernels, found, n);
      divergences[static_cast<size_t>(row)] =
          divergence(context.kernels, expected, found, n, expected_sum, found_sum);
      divergence_gradient(context.kernels, expected, found, n, expected_sum, found_sum, factor,
                          d_logits.data<float>() + row * n);
    }
  });
  return std::accumulate(divergences.begin(), divergences.end(), 0.0);
}

}  // namespace d2q
