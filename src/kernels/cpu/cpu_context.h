// What the operations of the CPU device share: the pool, the chosen inner loops and scratch memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/scratch_buffer.h"
#include "kernels/forward_kernels.h"

namespace d2q {

/// Scratch of one worker of the pool; each operation uses the buffers as it likes.
struct WorkerScratch {
  ScratchBuffer first;
  ScratchBuffer second;
  ScratchBuffer third;
  ScratchBuffer fourth;
};

struct CpuContext {
  CpuContext(ThreadPool& threads, const ForwardKernels& forward_kernels, bool bf16_instructions)
      : pool(threads),
        kernels(forward_kernels),
        has_bf16_products(bf16_instructions),
        multiply_bf16(bf16_instructions ? gemm_bf16 : gemm_bf16_widened),
        workers(static_cast<size_t>(threads.n_threads())) {}

  ThreadPool& pool;
  const ForwardKernels& kernels;
  bool has_bf16_products;
  decltype(&gemm_bf16) multiply_bf16;
  ScratchBuffer input;  // activations rounded for a product
  ScratchBuffer keys;   // attention's panels
  ScratchBuffer values;
  std::vector<WorkerScratch> workers;

  WorkerScratch& scratch(int worker) { return workers[static_cast<size_t>(worker)]; }

  /// body(begin, end, worker) over [0, n) in blocks of `block`, in parallel.
  template <typename Body>
  void for_blocks(int64_t n, int64_t block, Body&& body) {
    pool.parallel_for((n + block - 1) / block, [&](int64_t task, int worker) {
      body(task * block, std::min(n, (task + 1) * block), worker);
    });
  }
};

/// Cuts [0, n) into the fewest blocks of at most `limit`, as even as multiples of 16 allow: a short
/// last block would leave a core idle. Depends on n alone.
inline int64_t even_block(int64_t n, int64_t limit) {
  const int64_t n_blocks = std::max<int64_t>(1, (n + limit - 1) / limit);
  return std::max<int64_t>(16, ((n + n_blocks - 1) / n_blocks + 15) / 16 * 16);
}

}  // namespace d2q
