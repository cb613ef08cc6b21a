// METHOD.md §4: the group-aware order of columns.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/solver_ops.h"

namespace d2q {

struct ColumnOrder {
  std::vector<int64_t> columns;     // columns[k] = stored column walked k-th
  std::vector<ColumnGroup> groups;  // in walking order
};

/// Inside each group by descending diagonal, groups by descending largest diagonal; ties keep the
/// stored order. The last group may be short.
ColumnOrder group_aware_order(std::span<const double> diagonal, int64_t group_size);

/// The stored order, for rounding without statistics.
ColumnOrder stored_order(int64_t n_columns, int64_t group_size);

}  // namespace d2q
