// A warp's queue of pieces of global memory on their way into its shared memory. On Hopper one lane
// hands each piece to the bulk copy engine, so that what is in flight takes neither registers nor
// instructions; before, the lanes copy 16 bytes each asynchronously.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Pieces are received in the order in which they were requested.
template <int kStages, int kStageBytes>
class WeightRing {
 public:
  static constexpr int kBytes = kStages * kStageBytes;

  /// memory: kBytes on 16; barriers: kStages. Both the warp's own. All lanes call every function.
  __device__ WeightRing(unsigned char* memory, uint64_t* barriers)
      : memory_(memory), barriers_(address_of(barriers)) {
#if __CUDA_ARCH__ >= 900
    if (is_first_lane()) {
#pragma unroll 1
      for (int i = 0; i < kStages; ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers_ + 8 * i) : "memory");
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  /// Starts the copy of a piece into the stage that was free longest. bytes: a multiple of 16, at
  /// most kStageBytes; 0 when there is nothing left to copy.
  __device__ void request(const unsigned char* from, int bytes) {
    const unsigned to = address_of(memory_) + in_ * kStageBytes;
#if __CUDA_ARCH__ >= 900
    if (bytes > 0 && is_first_lane()) {
      const unsigned barrier = barriers_ + 8 * in_;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
                   "r"(bytes)
                   : "memory");
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(to),
          "l"(from), "r"(bytes), "r"(barrier)
          : "memory");
    }
#else
    for (int i = 16 * (static_cast<int>(threadIdx.x) % 32); i < bytes; i += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    in_ = in_ + 1 == kStages ? 0 : in_ + 1;
  }

  /// Waits for the next piece.
  __device__ const unsigned char* receive() {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred ready;\nagain_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ready, [%0], %1;\n"
        "@!ready bra again_%=;\n}" ::"r"(barriers_ + 8 * out_),
        "r"(phase_)
        : "memory");
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    __syncwarp();
#endif
    const unsigned char* piece = memory_ + out_ * kStageBytes;
    if (++out_ == kStages) out_ = 0, phase_ ^= 1;
    return piece;
  }

  /// The piece received last has been read, and its stage is free.
  __device__ void release() { __syncwarp(); }

 private:
  __device__ static unsigned address_of(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
  }
  __device__ static bool is_first_lane() { return threadIdx.x % 32 == 0; }

  unsigned char* memory_;
  unsigned barriers_;
  int in_ = 0;
  int out_ = 0;
  unsigned phase_ = 0;
};

}  // namespace d2q::cuda
