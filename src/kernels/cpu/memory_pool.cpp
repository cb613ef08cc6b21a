#include "kernels/cpu/memory_pool.h"

#include <algorithm>
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

/// In front of a block's user part: the shared_ptr's counts, so that they are no allocation apart.
constexpr uint64_t kHeaderBytes = 64;

/// Tells AddressSanitizer that of a block only the first `n_bytes` may be touched: it knows neither
/// that a kept block is free nor where its user's part ends.
void allow_first([[maybe_unused]] void* block, [[maybe_unused]] uint64_t n_bytes,
                 [[maybe_unused]] uint64_t block_bytes) {
#ifdef D2Q_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(block, n_bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(block) + n_bytes, block_bytes - n_bytes);
#endif
}

void release(void* block, uint64_t size) {
  allow_first(block, kHeaderBytes + size, kHeaderBytes + size);
  std::free(block);
}

}  // namespace

/// Puts a shared_ptr's counts into the block that it owns, and gives the block back with them.
template <typename T>
struct MemoryPool::BlockAllocator {
  using value_type = T;

  std::shared_ptr<MemoryPool> pool;
  void* block;
  uint64_t size;

  BlockAllocator(std::shared_ptr<MemoryPool> owner, void* memory, uint64_t n_bytes)
      : pool(std::move(owner)), block(memory), size(n_bytes) {}
  template <typename U>
  BlockAllocator(const BlockAllocator<U>& other)  // NOLINT(google-explicit-constructor)
      : pool(other.pool), block(other.block), size(other.size) {}

  T* allocate(size_t) noexcept {
    static_assert(sizeof(T) <= kHeaderBytes && alignof(T) <= kHeaderBytes);
    return static_cast<T*>(block);
  }
  void deallocate(T*, size_t) noexcept { pool->give_back(block, size); }
  friend bool operator==(const BlockAllocator& a, const BlockAllocator& b) {
    return a.block == b.block;
  }
};

MemoryPool::~MemoryPool() {
  for (const Kept& kept : kept_) release(kept.block, kept.size);
}

std::shared_ptr<void> MemoryPool::allocate(uint64_t n_bytes) {
  const uint64_t size = n_bytes == 0 ? 64 : checked_add(n_bytes, 63, "tensor") / 64 * 64;
  const uint64_t block_bytes = checked_add(size, kHeaderBytes, "tensor");
  void* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    // Exact sizes only: a stage repeats its shapes, and a larger block would waste memory unseen.
    const auto found = std::ranges::find(kept_, size, &Kept::size);
    if (found != kept_.end()) {
      block = found->block;
      *found = kept_.back();
      kept_.pop_back();
      kept_bytes_ -= size;
    }
  }
  if (block == nullptr) block = std::aligned_alloc(64, block_bytes);
  if (block == nullptr) throw std::bad_alloc();
  allow_first(block, kHeaderBytes + n_bytes, block_bytes);
  // The block is given back with the counts, by their allocator.
  return {static_cast<char*>(block) + kHeaderBytes, [](void*) {},
          BlockAllocator<char>(shared_from_this(), block, size)};
}

uint64_t MemoryPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

void MemoryPool::give_back(void* block, uint64_t size) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (kept_bytes_ + size <= capacity_) {
      try {
        kept_.push_back({size, block});
        kept_bytes_ += size;
        allow_first(block, 0, kHeaderBytes + size);
        return;
      } catch (...) {  // no memory for the entry: let the block go
      }
    }
  }
  release(block, size);
}

}  // namespace d2q
