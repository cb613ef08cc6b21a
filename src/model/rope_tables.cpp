// RoPE tables as transformers computes them: inverse frequencies in f32, angle = position · inverse
// frequency rounded to f32. At position 8192 that rounding turns the angle by up to 5e-4, so a
// table computed in f64 would be more exact and disagree.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/host_copy.h"
#include "model/block.h"
#include "model/family.h"

namespace d2q {
namespace {

constexpr double kTau = 2.0 * std::numbers::pi;

/// `divisors`: what each is divided by; empty for 1.
std::vector<float> plain_frequencies(double theta, int64_t dim,
                                     const std::vector<double>& divisors = {}) {
  std::vector<float> result;
  for (int64_t i = 0; i < dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(dim);
    const auto power = static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
    const float divisor =
        divisors.empty() ? 1.0f : static_cast<float>(divisors[static_cast<size_t>(i / 2)]);
    result.push_back(1.0f / (divisor * power));
  }
  return result;
}

/// Long wavelengths are divided by the factor, short ones kept, those between interpolated.
void scale_llama3(const RopeScaling& rope, std::vector<float>& frequencies) {
  const auto original = static_cast<double>(rope.original_max_positions);
  const double low_wavelength = original / rope.low_frequency_factor;
  const double high_wavelength = original / rope.high_frequency_factor;
  for (float& frequency : frequencies) {
    const double f = static_cast<double>(frequency);
    const double wavelength = kTau / f;
    if (wavelength < high_wavelength) continue;
    const double smooth = wavelength > low_wavelength
                              ? 0.0
                              : (original / wavelength - rope.low_frequency_factor) /
                                    (rope.high_frequency_factor - rope.low_frequency_factor);
    frequency = static_cast<float>((1.0 - smooth) * f / rope.factor + smooth * f);
  }
}

/// YaRN (arXiv 2309.00071): a linear ramp between the dimensions that turn beta_fast and beta_slow
/// times within the original context.
void scale_yarn(const RopeScaling& rope, double theta, int64_t dim,
                std::vector<float>& frequencies) {
  const auto turning_dimension = [&](double turns) {
    return static_cast<double>(dim) *
           std::log(static_cast<double>(rope.original_max_positions) / (turns * kTau)) /
           (2.0 * std::log(theta));
  };
  const double low = std::max(std::floor(turning_dimension(rope.beta_fast)), 0.0);
  double high =
      std::min(std::ceil(turning_dimension(rope.beta_slow)), static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // transformers' guard against a division by zero
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double f = static_cast<double>(frequencies[i]);
    frequencies[i] = static_cast<float>(f / rope.factor * ramp + f * (1.0 - ramp));
  }
}

}  // namespace

RopeTables make_rope_tables(Device& device, const ModelConfig& config, int64_t n_positions) {
  const RopeScaling& rope = config.rope_scaling;
  if (family_named(config.family).positions == Positions::kLearned) return {};
  const int64_t dim = config.rotated();
  D2Q_CHECK(dim > 0 && dim % 2 == 0 && n_positions >= 0, "head size {}, {} positions", dim,
            n_positions);
  double theta = config.rope_theta;
  if (rope.kind == RopeScaling::Kind::kDynamic && n_positions > config.max_positions) {
    const double stretch =
        rope.factor * static_cast<double>(n_positions) / static_cast<double>(config.max_positions) -
        (rope.factor - 1.0);
    theta *= std::pow(stretch, static_cast<double>(dim) / static_cast<double>(dim - 2));
  }
  std::vector<float> frequencies = plain_frequencies(theta, dim);
  double magnitude = 1.0;
  switch (rope.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
      break;
    case RopeScaling::Kind::kLinear:
      for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
      break;
    case RopeScaling::Kind::kLlama3:
      scale_llama3(rope, frequencies);
      break;
    case RopeScaling::Kind::kYarn:
      scale_yarn(rope, theta, dim, frequencies);
      magnitude = rope.attention_factor;
      if (magnitude == 0.0)
        magnitude = rope.factor <= 1.0 ? 1.0 : 0.1 * std::log(rope.factor) + 1.0;
      break;
    case RopeScaling::Kind::kLong: {
      const bool is_long = n_positions > rope.original_max_positions;
      frequencies = plain_frequencies(theta, dim, is_long ? rope.long_factors : rope.short_factors);
      magnitude = rope.attention_factor;
      break;
    }
  }

  const int64_t half = dim / 2;
  Matrix<float> cos(n_positions, half), sin(n_positions, half);
  for (int64_t position = 0; position < n_positions; ++position) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * frequencies[static_cast<size_t>(i)];
      cos(position, i) = static_cast<float>(std::cos(static_cast<double>(angle)) * magnitude);
      sin(position, i) = static_cast<float>(std::sin(static_cast<double>(angle)) * magnitude);
    }
  }
  return {to_device(device, cos), to_device(device, sin)};
}

}  // namespace d2q
