// Host memory for tensors, kept for reuse: a stage asks for the same few sizes again and again, and
// fresh pages from the system cost as much time as the products that fill them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace d2q {

/// Thread-safe. Blocks are 64-byte aligned and uninitialised. Lives as long as any block it gave
/// out.
class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  /// Freed blocks are kept while they sum up to at most `capacity` bytes.
  explicit MemoryPool(uint64_t capacity) : capacity_(capacity) {}
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// At least n_bytes. Throws std::bad_alloc. The pool must be held by a shared_ptr. Asks the
  /// system for nothing where a block of the size is kept.
  std::shared_ptr<void> allocate(uint64_t n_bytes);
  uint64_t kept_bytes() const;

 private:
  template <typename T>
  struct BlockAllocator;
  /// A free block; `size` leaves out what precedes the user's part.
  struct Kept {
    uint64_t size;
    void* block;
  };

  void give_back(void* block, uint64_t size) noexcept;

  const uint64_t capacity_;
  mutable std::mutex mutex_;
  std::vector<Kept> kept_;
  uint64_t kept_bytes_ = 0;
};

}  // namespace d2q
