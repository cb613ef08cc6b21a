#include "base/aligned_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "base/checked.h"

namespace d2q {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
/// From here on at most an eighth is lost by rounding up to whole huge pages.
constexpr uint64_t kLarge = 8 * kHugePage;

}  // namespace

void* allocate_aligned(uint64_t n_bytes) {
  const uint64_t unit = n_bytes >= kLarge ? kHugePage : kAlignment;
  const uint64_t wanted = std::max<uint64_t>(n_bytes, 1);
  const uint64_t padded = checked_add(wanted, unit - 1, "host memory") / unit * unit;
  void* memory = std::aligned_alloc(unit, padded);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // Only a wish: a kernel without huge pages refuses it, and nothing is lost.
  if (unit == kHugePage) static_cast<void>(madvise(memory, padded, MADV_HUGEPAGE));
#endif
  return memory;
}

}  // namespace d2q
