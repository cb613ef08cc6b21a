// Embedding and head as packed codes: rounded, since no error of theirs is passed on by a solver.
#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/thread_pool.h"
#include "kernels/device.h"
#include "quant/solve.h"

namespace d2q {

/// weight [rows, cols] rounded to a uniform grid (METHOD.md §5.1, with the clip search) of `bits`
/// and `group_size` columns, a slice of rows at a time.
PackedLinear round_to_packed(Device& device, ThreadPool& pool, const Matrix<float>& weight,
                             int bits, int64_t group_size);

}  // namespace d2q
