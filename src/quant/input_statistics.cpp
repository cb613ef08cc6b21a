#include "quant/input_statistics.h"

#include <utility>

#include "kernels/host_copy.h"

namespace d2q {

InputStatistics::InputStatistics(Device& device, int64_t n, int64_t n_samples, bool with_cross)
    : device_(device),
      scale_(2.0f / static_cast<float>(n_samples)),
      gram_(device.allocate(n, n, DType::kF32)) {
  device_.fill_zero(gram_);
  if (!with_cross) return;
  cross_ = device.allocate(n, n, DType::kF32);
  device_.fill_zero(cross_);
}

void InputStatistics::add(const Tensor& x, const Tensor& x_fp) {
  device_.accumulate_gram(x, scale_, gram_);
  if (!cross_.empty()) device_.accumulate_cross(x_fp, x, scale_, cross_);
}

void InputStatistics::sum_over(const GroupMember& member) const {
  member.sum(gram_);
  member.sum(cross_);
}

InputSetSolver InputStatistics::solver(const QuantizeOptions& options, const std::string& subject,
                                       StageClock& clock) {
  device_.mirror_lower(gram_);
  return {device_,
          std::move(gram_),
          std::move(cross_),
          {options.alpha, options.damping,
           options.refine && options.method == QuantMethod::kD2Quant, options.refine_rounds},
          subject,
          &clock};
}

DeviationStatistics::DeviationStatistics(Device& device, int64_t n)
    : device_(device), moments_(device.allocate(2, n, DType::kF64)) {
  device_.fill_zero(moments_);
}

void DeviationStatistics::add(const Tensor& teacher, const Tensor& student) {
  device_.accumulate_difference(teacher, student, moments_);
}

DeviationShift DeviationStatistics::shift(int64_t n_tokens, const ShiftGate& gate) const {
  return deviation_shift(to_host<double>(device_, moments_), n_tokens, gate);
}

}  // namespace d2q
