// METHOD.md §3 and §6: sums over the calibration tokens, taken chunk by chunk on the device.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/device_group.h"
#include "quant/deviation.h"
#include "quant/options.h"
#include "quant/solve.h"

namespace d2q {

/// H and C of one input set of `n` inputs (METHOD.md §3): Σ over tokens, times 2 / `n_samples`.
class InputStatistics {
 public:
  InputStatistics(Device& device, int64_t n, int64_t n_samples, bool with_cross);

  /// x, x_fp: [T, n]; x_fp is read only when the cross term is wanted.
  void add(const Tensor& x, const Tensor& x_fp);

  /// The solver of the linears that read these inputs; `subject` names them in its errors. The sums
  /// are complete by then.
  InputSetSolver solver(const QuantizeOptions& options, const std::string& subject,
                        StageClock& clock);
  /// Over the tokens of all members.
  void sum_over(const GroupMember& member) const;

 private:
  Device& device_;
  float scale_;
  Tensor gram_;
  Tensor cross_;
};

/// Moments of teacher − student (METHOD.md §6), [T, n] each.
class DeviationStatistics {
 public:
  DeviationStatistics(Device& device, int64_t n);
  void add(const Tensor& teacher, const Tensor& student);
  /// Over the tokens of all members.
  void sum_over(const GroupMember& member) const { member.sum(moments_); }
  DeviationShift shift(int64_t n_tokens, const ShiftGate& gate) const;

 private:
  Device& device_;
  Tensor moments_;
};

}  // namespace d2q
