// METHOD.md §5.2, absorption: the column scale of a down-projection moves into the rows of the
// branch that feeds it without a nonlinearity.
#pragma once

#include <span>

#include "quant/solve.h"

namespace d2q {

/// Multiplies row j of `up` (its group scales) and up_bias[j] (may be empty) by
/// down.column_scale[j] and leaves `down` with a column scale of 1. Exact up to the fp16 rounding
/// of the scales. Throws Error{kNumeric} when a scale leaves fp16's range.
void absorb_column_scale(LinearSolution& down, LinearSolution& up, std::span<float> up_bias);

/// The same for an up-projection that stays dense: rows of `up` [in of down, hidden].
void absorb_column_scale(LinearSolution& down, Matrix<float>& up, std::span<float> up_bias);

}  // namespace d2q
