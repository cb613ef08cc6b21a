// A norm's shift as a bias of the linears that read it.
#pragma once

#include <string>

#include "model/weight_source.h"

namespace d2q {

/// b + W·β of the linear `module`, β being the shift of `norm`, which `source` must have; b is 0
/// where the linear has no bias. [1, out], sums in f64.
Matrix<float> bias_with_shift(const WeightSource& source, const std::string& module,
                              const std::string& norm);

}  // namespace d2q
