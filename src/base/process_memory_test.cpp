#include "base/process_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace d2q {
namespace {

TEST(ProcessMemory, the_peak_remembers_what_was_freed_until_it_is_reset) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  const int64_t before = resident_bytes();
  ASSERT_GT(before, 0);
  {
    std::vector<char> block(kBytes);
    volatile char* bytes = block.data();  // or an optimiser leaves out all of it
    for (size_t i = 0; i < block.size(); i += 4096) bytes[i] = 1;
    EXPECT_GE(resident_bytes(), kBytes);
  }
  EXPECT_GE(peak_resident_bytes(), kBytes);
  if (!reset_peak_resident()) GTEST_SKIP() << "this system keeps the peak";
  EXPECT_LT(peak_resident_bytes(), before + kBytes / 2);
}

}  // namespace
}  // namespace d2q
