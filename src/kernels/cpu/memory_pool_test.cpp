#include "kernels/cpu/memory_pool.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace d2q {
namespace {

TEST(MemoryPool, GivesABlockOfTheSameSizeOutAgain) {
  const auto pool = std::make_shared<MemoryPool>(1000);
  void* first = pool->allocate(500).get();
  EXPECT_EQ(pool->kept_bytes(), 512u);
  const auto again = pool->allocate(510);
  EXPECT_EQ(again.get(), first);
  EXPECT_EQ(pool->kept_bytes(), 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(again.get()) % 64, 0u);
}

TEST(MemoryPool, KeepsNoMoreThanItsCapacity) {
  const auto pool = std::make_shared<MemoryPool>(1024);
  auto a = pool->allocate(512);
  auto b = pool->allocate(512);
  auto c = pool->allocate(64);
  a.reset();
  b.reset();
  c.reset();
  EXPECT_EQ(pool->kept_bytes(), 1024u);
}

TEST(MemoryPool, OutlivesItsOwnerWhileABlockIsOut) {
  auto pool = std::make_shared<MemoryPool>(1024);
  auto block = pool->allocate(10);
  pool.reset();
  static_cast<char*>(block.get())[9] = 1;
  block.reset();
}

}  // namespace
}  // namespace d2q
