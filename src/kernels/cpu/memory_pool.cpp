#include "kernels/cpu/memory_pool.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "base/checked.h"

#if defined(__SANITIZE_ADDRESS__)
#define D2Q_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define D2Q_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef D2Q_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace d2q {
namespace {

/// Tells AddressSanitizer that of `size` bytes only the first `n_bytes` may be touched: it knows
/// neither that a kept block is free nor where its user's part ends.
void allow_first([[maybe_unused]] void* memory, [[maybe_unused]] uint64_t n_bytes,
                 [[maybe_unused]] uint64_t size) {
#ifdef D2Q_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(memory, n_bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + n_bytes, size - n_bytes);
#endif
}

void release(void* memory, uint64_t size) {
  allow_first(memory, size, size);
  std::free(memory);
}

}  // namespace

MemoryPool::~MemoryPool() {
  for (const auto& [size, memory] : kept_) release(memory, size);
}

std::shared_ptr<void> MemoryPool::allocate(uint64_t n_bytes) {
  const uint64_t size = n_bytes == 0 ? 64 : checked_add(n_bytes, 63, "tensor") / 64 * 64;
  void* memory = nullptr;
  {
    const std::lock_guard lock(mutex_);
    // Exact sizes only: a stage repeats its shapes, and a larger block would waste memory unseen.
    if (const auto found = kept_.find(size); found != kept_.end()) {
      memory = found->second;
      kept_.erase(found);
      kept_bytes_ -= size;
    }
  }
  if (memory == nullptr) memory = std::aligned_alloc(64, size);
  if (memory == nullptr) throw std::bad_alloc();
  allow_first(memory, n_bytes, size);
  return {memory,
          [pool = shared_from_this(), size](void* pointer) { pool->give_back(pointer, size); }};
}

uint64_t MemoryPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

void MemoryPool::give_back(void* memory, uint64_t n_bytes) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (kept_bytes_ + n_bytes <= capacity_) {
      try {
        kept_.emplace(n_bytes, memory);
        kept_bytes_ += n_bytes;
        allow_first(memory, 0, n_bytes);
        return;
      } catch (...) {  // no memory for the entry: let the block go
      }
    }
  }
  release(memory, n_bytes);
}

}  // namespace d2q
