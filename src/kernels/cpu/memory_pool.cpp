#include "kernels/cpu/memory_pool.h"

#include <cstdlib>
#include <new>
#include <utility>

#include "base/checked.h"

namespace d2q {

MemoryPool::~MemoryPool() {
  for (const auto& [size, memory] : kept_) std::free(memory);
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
        return;
      } catch (...) {  // no memory for the entry: let the block go
      }
    }
  }
  std::free(memory);
}

}  // namespace d2q
