#include "quant/tuned_parameters.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/host_copy.h"

namespace d2q {
namespace {

// METHOD.md §9.
constexpr double kScaleRate = 5e-3;  // of factors on scales, and of gains about 1
constexpr double kShiftRate = 1e-3;

Tensor zeros(Device& device, int64_t rows, int64_t cols) {
  const Tensor tensor = device.allocate(rows, cols, DType::kF32);
  device.fill_zero(tensor);
  return tensor;
}

Tensor filled(Device& device, int64_t rows, int64_t cols, float value) {
  const std::vector<float> values(static_cast<size_t>(rows * cols), value);
  return to_device(device, values, rows, cols);
}

Tensor copy_of(Device& device, const Tensor& tensor) {
  const Tensor copy = device.allocate(tensor.rows(), tensor.cols(), tensor.dtype());
  device.convert(tensor, copy);
  return copy;
}

/// y = a ⊙ b by element, for a >= 0.
void multiply(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  device.gated_activation(Activation::kRelu, a, b, y);
}

/// Turns negative scales around, and the signs of their plane: the same weights.
void make_scales_positive(LinearSolution& solution) {
  const PackedLayout& layout = solution.layout;
  const int64_t n_groups = layout.n_groups();
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t group = 0; group < n_groups; ++group) {
      const int64_t begin = group * layout.group_size;
      const int64_t end = std::min(begin + layout.group_size, layout.cols);
      for (int plane = 0; plane < layout.bits; ++plane) {
        const int64_t place = (row * n_groups + group) * layout.bits + plane;
        float& scale = solution.params[static_cast<size_t>(place)];
        if (!(scale < 0.0f)) continue;
        scale = -scale;
        for (int64_t column = begin; column < end; ++column) {
          solution.codes[static_cast<size_t>(row * layout.cols + column)] ^=
              static_cast<uint8_t>(1u << plane);
        }
      }
    }
  }
}

double mean_magnitude(const Matrix<float>& values) {
  double sum = 0.0;
  for (const float value : values.span()) sum += std::abs(static_cast<double>(value));
  return sum / static_cast<double>(values.size());
}

/// Gains of prepared models start at 1; elsewhere their rate is in proportion.
double gain_rate(Device& device, const Tensor& gain) {
  return kScaleRate * mean_magnitude(to_host<float>(device, gain));
}

}  // namespace

AdamParameter::AdamParameter(Device& device, Tensor value, double rate)
    : device_(device),
      value_(std::move(value)),
      first_moment_(zeros(device, value_.rows(), value_.cols())),
      second_moment_(zeros(device, value_.rows(), value_.cols())),
      rate_(rate) {}

void AdamParameter::update(const Tensor& gradient, const TuneStep& at) const {
  const double left = 1.0 - static_cast<double>(at.step - 1) / static_cast<double>(at.n_steps);
  AdamStep adam;
  adam.rate = static_cast<float>(rate_ * left);
  adam.step = at.step;
  device_.gradients().adam(value_, gradient, first_moment_, second_moment_, adam);
}

TunedScales::TunedScales(Device& device, const LinearSolution& solution)
    : device_(device),
      factor_(device,
              filled(device, solution.layout.rows,
                     solution.layout.n_groups() * solution.layout.n_params(), 1.0f),
              kScaleRate) {
  const PackedLayout& layout = solution.layout;
  D2Q_CHECK(layout.kind == PackedKind::kSignPlanes && !solution.has_column_scale,
            "only plain sign planes are tuned");
  LinearSolution positive = solution;
  make_scales_positive(positive);
  linear_.codes = device.allocate(layout.rows, layout.cols, DType::kU8);
  device.upload(positive.codes.data(), linear_.codes);
  start_ = to_device(device, positive.params, factor_.value().rows(), factor_.value().cols());
  linear_.params = copy_of(device, start_);
  linear_.column_scale = filled(device, 1, layout.cols, 1.0f);
  linear_.planes = layout.n_params();
  linear_.group_size = layout.group_size;
}

void TunedScales::reconstruct(const Tensor& weight) const {
  device_.gradients().reconstruct(linear_, weight);
}

void TunedScales::update(const Tensor& d_weight, const TuneStep& at) const {
  const Tensor d_scales = device_.allocate(start_.rows(), start_.cols(), DType::kF32);
  const Tensor d_factor = device_.allocate(start_.rows(), start_.cols(), DType::kF32);
  device_.gradients().scale_gradients(linear_, d_weight, d_scales);
  multiply(device_, start_, d_scales, d_factor);
  factor_.update(d_factor, at);
  multiply(device_, start_, factor_.value(), linear_.params);
}

void TunedScales::round() const {
  Matrix<float> params = to_host<float>(device_, linear_.params);
  for (float& scale : params.span()) scale = to_float(to_half(scale));
  device_.upload(params.data(), linear_.params);
}

void TunedScales::store(LinearSolution& solution) const {
  solution.weight = {};
  make_scales_positive(solution);  // the codes that params belong to
  const Matrix<float> params = to_host<float>(device_, linear_.params);
  D2Q_CHECK(solution.params.size() == static_cast<size_t>(params.size()), "{} scales for {}",
            params.size(), solution.params.size());
  std::copy(params.data(), params.data() + params.size(), solution.params.begin());
  make_scales_positive(solution);
}

TunedNorm::TunedNorm(Device& device, NormParams& params, bool tune_shift)
    : device_(device),
      tune_shift_(tune_shift),
      gain_(device, copy_of(device, params.gain), gain_rate(device, params.gain)),
      shift_(device,
             params.shift.empty() ? zeros(device, 1, params.gain.cols())
                                  : copy_of(device, params.shift),
             kShiftRate),
      gradient_{zeros(device, 1, params.gain.cols()), zeros(device, 1, params.gain.cols())} {
  params.gain = gain_.value();
  if (tune_shift_) params.shift = shift_.value();
}

void TunedNorm::update(const TuneStep& at) const {
  gain_.update(gradient_.gain, at);
  if (tune_shift_) shift_.update(gradient_.shift, at);
  device_.fill_zero(gradient_.gain);
  device_.fill_zero(gradient_.shift);
}

}  // namespace d2q
