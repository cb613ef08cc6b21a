// Host memory for tensors, kept for reuse: a stage asks for the same few sizes again and again, and
// fresh pages from the system cost as much time as the products that fill them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

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

  /// At least n_bytes. Throws std::bad_alloc. The pool must be held by a shared_ptr.
  std::shared_ptr<void> allocate(uint64_t n_bytes);
  uint64_t kept_bytes() const;

 private:
  void give_back(void* memory, uint64_t n_bytes) noexcept;

  const uint64_t capacity_;
  mutable std::mutex mutex_;
  std::multimap<uint64_t, void*> kept_;  // by size
  uint64_t kept_bytes_ = 0;
};

}  // namespace d2q
