// What tuning does beside the backward: weights from codes, scales' gradients, the loss, the step.
#include <array>
#include <cmath>

#include "kernels/cpu/forward_ops.h"
#include "kernels/cpu/gradients.h"
#include "kernels/operation_checks.h"

namespace d2q {
namespace {

constexpr int64_t kRowsPerTask = 16;

/// Σ of v and of ±v for each plane over one group, v = d_w c, in lanes that the compiler maps to
/// vectors.
template <int planes>
void group_gradients(const float* d_w, const float* column_scale, const uint8_t* codes, int64_t n,
                     float* sums) {
  constexpr int64_t kLanes = 16;
  std::array<std::array<float, kLanes>, planes> lanes = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const size_t i = static_cast<size_t>(j) + lane;
      const float value = d_w[i] * column_scale[i];
      for (size_t plane = 0; plane < planes; ++plane) {
        const auto sign = static_cast<float>(2 * ((codes[i] >> plane) & 1) - 1);
        lanes[plane][lane] += sign * value;
      }
    }
  }
  for (; j < n; ++j) {
    for (size_t plane = 0; plane < planes; ++plane) {
      const float value = d_w[j] * column_scale[j];
      lanes[plane][0] += ((codes[j] >> plane) & 1) != 0 ? value : -value;
    }
  }
  for (size_t plane = 0; plane < planes; ++plane) {
    float sum = 0.0f;
    for (const float lane : lanes[plane]) sum += lane;
    sums[plane] = sum;
  }
}

using GroupGradients = void (*)(const float*, const float*, const uint8_t*, int64_t, float*);
constexpr GroupGradients kGroupGradients[kMaxTunedPlanes] = {
    group_gradients<1>, group_gradients<2>, group_gradients<3>, group_gradients<4>,
    group_gradients<5>, group_gradients<6>, group_gradients<7>, group_gradients<8>};

}  // namespace

void reconstruct_linear(CpuContext& context, const TunedLinear& linear, const Tensor& w) {
  check_tuned_linear(linear);
  const int64_t rows = linear.codes.rows(), cols = linear.codes.cols();
  const int64_t n_groups = linear.n_groups();
  D2Q_CHECK(w.rows() == rows && w.cols() == cols, "w {}x{} for codes {}x{}", w.rows(), w.cols(),
            rows, cols);
  const bool f32 = w.dtype() == DType::kF32;
  D2Q_CHECK(f32 || w.dtype() == DType::kBF16, "w of dtype {}", static_cast<int>(w.dtype()));
  const int n_levels = 1 << linear.planes;
  const float* scale = linear.column_scale.data<float>();
  context.for_blocks(rows, kRowsPerTask, [&](int64_t begin, int64_t end, int worker) {
    float* buffer = f32 ? nullptr : context.scratch(worker).first.reserve<float>(cols);
    std::array<float, 1 << kMaxTunedPlanes> levels;
    for (int64_t row = begin; row < end; ++row) {
      float* target = f32 ? w.data<float>() + row * cols : buffer;
      const uint8_t* codes = linear.codes.data<uint8_t>() + row * cols;
      const float* params = linear.params.data<float>() + row * n_groups * linear.planes;
      for (int64_t group = 0; group < n_groups; ++group, params += linear.planes) {
        for (int code = 0; code < n_levels; ++code) {
          float level = 0.0f;
          for (int plane = 0; plane < linear.planes; ++plane) {
            level += ((code >> plane) & 1) != 0 ? params[plane] : -params[plane];
          }
          levels[static_cast<size_t>(code)] = level;
        }
        const int64_t last = std::min(cols, (group + 1) * linear.group_size);
        for (int64_t j = group * linear.group_size; j < last; ++j) {
          target[j] = scale[j] * levels[codes[j]];
        }
      }
      if (!f32) context.kernels.f32_to_bf16(target, &w.data<BFloat16>()[row * cols].bits, cols);
    }
  });
}

void scale_gradients(CpuContext& context, const TunedLinear& linear, const Tensor& d_w,
                     const Tensor& d_params) {
  check_tuned_linear(linear);
  const int64_t rows = linear.codes.rows(), cols = linear.codes.cols();
  const int64_t n_groups = linear.n_groups();
  D2Q_CHECK(d_w.rows() == rows && d_w.cols() == cols, "d_w {}x{} for codes {}x{}", d_w.rows(),
            d_w.cols(), rows, cols);
  D2Q_CHECK(d_params.rows() == rows && d_params.cols() == linear.params.cols(),
            "d_params {}x{} for params {}x{}", d_params.rows(), d_params.cols(), rows,
            linear.params.cols());
  const GroupGradients gradients = kGroupGradients[linear.planes - 1];
  const float* scale = linear.column_scale.data<float>();
  context.for_blocks(rows, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < n_groups; ++group) {
        const int64_t first = group * linear.group_size;
        gradients(d_w.data<float>() + row * cols + first, scale + first,
                  linear.codes.data<uint8_t>() + row * cols + first,
                  std::min(linear.group_size, cols - first),
                  d_params.data<float>() + (row * n_groups + group) * linear.planes);
      }
    }
  });
}

double squared_error(CpuContext& context, const Tensor& y, const Tensor& target, float factor,
                     const Tensor& d_y) {
  const int64_t rows = y.rows(), cols = y.cols();
  D2Q_CHECK(
      target.rows() == rows && target.cols() == cols && d_y.rows() == rows && d_y.cols() == cols,
      "y {}x{}, target {}x{}, d_y {}x{}", rows, cols, target.rows(), target.cols(), d_y.rows(),
      d_y.cols());
  std::vector<double> sums(static_cast<size_t>((rows + kRowsPerTask - 1) / kRowsPerTask));
  context.for_blocks(rows, kRowsPerTask, [&](int64_t begin, int64_t end, int worker) {
    float* left = context.scratch(worker).first.reserve<float>(cols);
    float* right = context.scratch(worker).second.reserve<float>(cols);
    double total = 0.0;
    for (int64_t row = begin; row < end; ++row) {
      const float* a = row_as_f32(context.kernels, y, row, 0, cols, left);
      const float* b = row_as_f32(context.kernels, target, row, 0, cols, right);
      float* gradient = d_y.data<float>() + row * cols;
      std::array<double, 4> lanes = {};
      for (int64_t j = 0; j < cols; ++j) {
        const double difference = static_cast<double>(a[j]) - static_cast<double>(b[j]);
        lanes[static_cast<size_t>(j % 4)] += difference * difference;
        gradient[j] = factor * static_cast<float>(difference);
      }
      total += (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
    }
    sums[static_cast<size_t>(begin / kRowsPerTask)] = total;
  });
  double total = 0.0;
  for (const double sum : sums) total += sum;
  return total;
}

void adam(CpuContext& context, const Tensor& parameter, const Tensor& gradient,
          const Tensor& first_moment, const Tensor& second_moment, const AdamStep& step) {
  for (const Tensor* tensor : {&gradient, &first_moment, &second_moment}) {
    D2Q_CHECK(tensor->rows() == parameter.rows() && tensor->cols() == parameter.cols(),
              "{}x{} beside a parameter of {}x{}", tensor->rows(), tensor->cols(), parameter.rows(),
              parameter.cols());
  }
  D2Q_CHECK(step.step >= 1, "step {}", step.step);
  const auto correction = [&](float beta) {
    return static_cast<float>(
        1.0 / (1.0 - std::pow(static_cast<double>(beta), static_cast<double>(step.step))));
  };
  const float first_factor = correction(step.beta1), second_factor = correction(step.beta2);
  context.for_blocks(parameter.size(), 1 << 13, [&](int64_t begin, int64_t end, int) {
    float* value = parameter.data<float>();
    const float* slope = gradient.data<float>();
    float* first = first_moment.data<float>();
    float* second = second_moment.data<float>();
    for (int64_t i = begin; i < end; ++i) {
      first[i] = step.beta1 * first[i] + (1.0f - step.beta1) * slope[i];
      second[i] = step.beta2 * second[i] + (1.0f - step.beta2) * slope[i] * slope[i];
      value[i] -= step.rate * (first[i] * first_factor) /
                  (std::sqrt(second[i] * second_factor) + step.epsilon);
    }
  });
}

}  // namespace d2q
