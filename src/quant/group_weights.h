// A block's weights on several devices: loaded by one, solved by all.
#pragma once

#include <functional>

#include "kernels/device_group.h"
#include "model/block.h"
#include "quant/solve.h"

namespace d2q {

/// The first member's dense weights become everybody's.
void share_weights(Device& device, const GroupMember& member, BlockWeights& weights);

/// `solve` on the rows of `weight`, which every member has: on a part of them each, or, where the
/// rows share column scales, on all of them on the first member's device. The first member gets the
/// whole solution, whose figures are those of all rows. The others get its layout and, unless it
/// has column scales, its weight.
LinearSolution solve_rows(Device& device, const GroupMember& member, const Tensor& weight,
                          bool shares_columns,
                          const std::function<LinearSolution(const Tensor& rows)>& solve);

}  // namespace d2q
