#include "quant/column_order.h"

#include <algorithm>
#include <numeric>

namespace d2q {

ColumnOrder stored_order(int64_t n_columns, int64_t group_size) {
  ColumnOrder order;
  order.columns.resize(static_cast<size_t>(n_columns));
  std::iota(order.columns.begin(), order.columns.end(), int64_t{0});
  for (int64_t begin = 0; begin < n_columns; begin += group_size) {
    order.groups.push_back({begin, std::min(group_size, n_columns - begin), begin / group_size});
  }
  return order;
}

ColumnOrder group_aware_order(std::span<const double> diagonal, int64_t group_size) {
  const ColumnOrder stored = stored_order(static_cast<int64_t>(diagonal.size()), group_size);
  const auto larger = [&](int64_t a, int64_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  };
  struct SortedGroup {
    ColumnGroup group;
    std::vector<int64_t> columns;
  };
  std::vector<SortedGroup> sorted;
  for (const ColumnGroup& group : stored.groups) {
    SortedGroup entry{group, std::vector<int64_t>(static_cast<size_t>(group.size))};
    std::iota(entry.columns.begin(), entry.columns.end(), group.begin);
    std::stable_sort(entry.columns.begin(), entry.columns.end(), larger);
    sorted.push_back(std::move(entry));
  }
  std::stable_sort(sorted.begin(), sorted.end(), [&](const SortedGroup& a, const SortedGroup& b) {
    return larger(a.columns.front(), b.columns.front());
  });
  ColumnOrder order;
  for (SortedGroup& entry : sorted) {
    entry.group.begin = static_cast<int64_t>(order.columns.size());
    order.groups.push_back(entry.group);
    order.columns.insert(order.columns.end(), entry.columns.begin(), entry.columns.end());
  }
  return order;
}

}  // namespace d2q
