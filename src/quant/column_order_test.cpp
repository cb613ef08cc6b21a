#include "quant/column_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace d2q {
namespace {

using ::testing::ElementsAre;

MATCHER_P3(IsGroup, begin, size, index, "") {
  return arg.begin == begin && arg.size == size && arg.index == index;
}

TEST(ColumnOrder, SortsInsideGroupsAndGroupsByTheirLargestEntry) {
  const std::vector<double> diagonal = {1, 5, 2, 7, 9, 3, 6};
  const ColumnOrder order = group_aware_order(diagonal, 3);
  // Groups {1, 5, 2}, {7, 9, 3}, {6}: the largest are 5, 9 and 6.
  EXPECT_THAT(order.columns, ElementsAre(4, 3, 5, 6, 1, 2, 0));
  EXPECT_THAT(order.groups, ElementsAre(IsGroup(0, 3, 1), IsGroup(3, 1, 2), IsGroup(4, 3, 0)));
}

TEST(ColumnOrder, KeepsTheStoredOrderAmongEquals) {
  const std::vector<double> diagonal = {2, 2, 2, 2, 3};
  const ColumnOrder order = group_aware_order(diagonal, 2);
  EXPECT_THAT(order.columns, ElementsAre(4, 0, 1, 2, 3));
  EXPECT_THAT(order.groups, ElementsAre(IsGroup(0, 1, 2), IsGroup(1, 2, 0), IsGroup(3, 2, 1)));
}

TEST(ColumnOrder, AGroupAsWideAsTheMatrixIsOneGroup) {
  const std::vector<double> diagonal = {1, 3, 2};
  for (const int64_t group_size : {3, 128}) {
    const ColumnOrder order = group_aware_order(diagonal, group_size);
    EXPECT_THAT(order.columns, ElementsAre(1, 2, 0));
    EXPECT_THAT(order.groups, ElementsAre(IsGroup(0, 3, 0)));
  }
}

TEST(ColumnOrder, TheStoredOrderHasAShortLastGroup) {
  const ColumnOrder order = stored_order(5, 2);
  EXPECT_THAT(order.columns, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(order.groups, ElementsAre(IsGroup(0, 2, 0), IsGroup(2, 2, 1), IsGroup(4, 1, 2)));
}

}  // namespace
}  // namespace d2q
