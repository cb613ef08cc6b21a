#include "quant/tuned_parameters.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "kernels/host_copy.h"

namespace d2q {
namespace {

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

/// A uniform grid as sign planes: with b = ±1 the bits of a code,
/// scale·(code − zero) = Σ_k b_k scale·2^(k−1) + scale·((2^bits − 1)/2 − zero), where the last
/// summand is a plane of its own whose bit is always set.
LinearSolution as_sign_planes(const LinearSolution& uniform) {
  const int bits = uniform.layout.bits;
  LinearSolution result;
  result.layout = uniform.layout;
  result.layout.kind = PackedKind::kSignPlanes;
  result.layout.bits = bits + 1;
  result.codes = uniform.codes;
  for (uint8_t& code : result.codes) code = static_cast<uint8_t>(code | 1u << bits);
  const float middle = 0.5f * static_cast<float>((1 << bits) - 1);
  for (size_t i = 0; i < uniform.params.size(); i += 2) {
    const float scale = uniform.params[i];
    for (int plane = 0; plane < bits; ++plane)
      result.params.push_back(std::ldexp(scale, plane - 1));
    result.params.push_back(scale * (middle - uniform.params[i + 1]));
  }
  return result;
}

double mean_magnitude(const Matrix<float>& values) {
  double sum = 0.0;
  for (const float value : values.span()) sum += std::abs(static_cast<double>(value));
  return sum / static_cast<double>(values.size());
}

/// Gains of prepared models start at 1; elsewhere their rate is in proportion.
double gain_rate(Device& device, const Tensor& gain, const TuneRates& rates) {
  return rates.scale * mean_magnitude(to_host<float>(device, gain));
}

/// One factor a row and group on a uniform grid, one a row, group and plane else.
Tensor unit_factors(Device& device, const PackedLayout& layout) {
  return layout.kind == PackedKind::kUniform
             ? filled(device, layout.rows * layout.n_groups(), 1, 1.0f)
             : filled(device, layout.rows, layout.n_groups() * layout.n_params(), 1.0f);
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
  const double warmth =
      std::min(1.0, static_cast<double>(at.step) / static_cast<double>(at.warm_up));
  AdamStep adam;
  adam.rate = static_cast<float>(rate_ * left * warmth);
  adam.step = at.step;
  device_.gradients().adam(value_, gradient, first_moment_, second_moment_, adam);
}

bool TunedScales::takes(const PackedLayout& layout) {
  return layout.kind == PackedKind::kSignPlanes || layout.bits < kMaxTunedPlanes;
}

TunedScales::TunedScales(Device& device, const LinearSolution& solution, const TuneRates& rates)
    : device_(device), factor_(device, unit_factors(device, solution.layout), rates.scale) {
  D2Q_CHECK(takes(solution.layout) && !solution.has_column_scale,
            "{} bits with a column scale or too many", solution.layout.bits);
  const bool is_uniform = solution.layout.kind == PackedKind::kUniform;
  LinearSolution positive = is_uniform ? as_sign_planes(solution) : solution;
  make_scales_positive(positive);
  const PackedLayout& layout = positive.layout;
  linear_.codes = device.allocate(layout.rows, layout.cols, DType::kU8);
  device.upload(positive.codes.data(), linear_.codes);
  start_ = to_device(device, positive.params, layout.rows, layout.n_groups() * layout.n_params());
  linear_.params = copy_of(device, start_);
  linear_.column_scale = filled(device, 1, layout.cols, 1.0f);
  linear_.planes = layout.n_params();
  linear_.group_size = layout.group_size;
  if (is_uniform) ones_ = filled(device, 1, linear_.planes, 1.0f);
}

void TunedScales::reconstruct(const Tensor& weight) const {
  device_.gradients().reconstruct(linear_, weight);
}

Tensor TunedScales::allocate_params() const {
  return device_.allocate(start_.rows(), start_.cols(), DType::kF32);
}

void TunedScales::apply_factor() const {
  Tensor factors = factor_.value();
  if (is_shared()) {  // to each plane
    factors = allocate_params();
    device_.linear(factor_.value(), ones_.reshape(linear_.planes, 1), {},
                   factors.reshape(factor_.value().rows(), linear_.planes));
  }
  multiply(device_, start_, factors, linear_.params);
}

void TunedScales::update(const Tensor& d_weight, const TuneStep& at) const {
  const Tensor d_scales = allocate_params();
  Tensor d_factor = allocate_params();
  device_.gradients().scale_gradients(linear_, d_weight, d_scales);
  multiply(device_, start_, d_scales, d_factor);
  if (is_shared()) {  // over the planes
    const Tensor sums = device_.allocate(factor_.value().rows(), 1, DType::kF32);
    device_.linear(d_factor.reshape(sums.rows(), linear_.planes), ones_, {}, sums);
    d_factor = sums;
  }
  factor_.update(d_factor, at);
  apply_factor();
}

void TunedScales::round() const {
  Matrix<float> params = to_host<float>(device_, linear_.params);
  const Matrix<float> start = to_host<float>(device_, start_);
  const auto rounded = [](float scale) { return to_float(to_half(scale)); };
  if (!is_shared()) {
    for (float& scale : params.span()) scale = rounded(scale);
  } else {
    // The first plane is half the stored scale, and the others keep their ratio to it.
    for (int64_t i = 0; i < params.size(); i += linear_.planes) {
      const float before = start.data()[i];
      const float after = 0.5f * rounded(2.0f * params.data()[i]);
      for (int64_t k = i; k < i + linear_.planes; ++k)
        params.data()[k] = before == 0.0f ? 0.0f : after * (start.data()[k] / before);
    }
  }
  device_.upload(params.data(), linear_.params);
}

void TunedScales::store(LinearSolution& solution) const {
  solution.weight = {};
  const Matrix<float> params = to_host<float>(device_, linear_.params);
  if (is_shared()) {
    for (size_t i = 0; i < solution.params.size(); i += 2) {
      const float scale = 2.0f * params.data()[static_cast<int64_t>(i / 2) * linear_.planes];
      solution.params[i] = solution.params[i] < 0.0f ? -scale : scale;
    }
    return;
  }
  make_scales_positive(solution);  // the codes that params belong to
  D2Q_CHECK(solution.params.size() == static_cast<size_t>(params.size()), "{} scales for {}",
            params.size(), solution.params.size());
  std::copy(params.data(), params.data() + params.size(), solution.params.begin());
  make_scales_positive(solution);
}

TunedNorm::TunedNorm(Device& device, NormParams& params, bool tune_shift, const TuneRates& rates)
    : device_(device),
      tune_shift_(tune_shift),
      gain_(device, copy_of(device, params.gain), gain_rate(device, params.gain, rates)),
      shift_(device,
             params.shift.empty() ? zeros(device, 1, params.gain.cols())
                                  : copy_of(device, params.shift),
             rates.shift),
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
