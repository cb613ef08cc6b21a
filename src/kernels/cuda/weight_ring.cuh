// A warp's queue of pieces of global memory on their way into its shared memory. On Hopper one lane
// hands each piece to the bulk copy engine, so that what is in flight takes neither registers nor
// instructions; before, the lanes copy 16 bytes each asynchronously.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Pieces are received in the order in which they were requested. Its state is two counts: all else
/// is computed anew where it is needed.
template <int kStages>
class WeightRing {
  static_assert((kStages & (kStages - 1)) == 0);

 public:
  /// memory: kStages * stage_bytes on 16; barriers: kStages. Both the warp's own. All lanes call
  /// every function.
  __device__ WeightRing(unsigned char* memory, int stage_bytes, uint64_t* barriers)
      : memory_(memory), stage_bytes_(stage_bytes), barriers_(barriers) {
#if __CUDA_ARCH__ >= 900
    if (is_first_lane()) {
#pragma unroll 1
      for (int i = 0; i < kStages; ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier(i)) : "memory");
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  /// Whether as many pieces are under way, or received and not released, as there is room for.
  __device__ bool is_full() const { return n_requested_ - n_released_ == kStages; }

  /// Starts the copy of a piece into the stage that was free longest. bytes: a multiple of 16, at
  /// most stage_bytes.
  __device__ void request(const unsigned char* from, int bytes) {
    const unsigned to = address_of(stage(n_requested_));
#if __CUDA_ARCH__ >= 900
    if (is_first_lane()) {
      asm volatile(
          "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier(n_requested_)),
          "r"(bytes)
          : "memory");
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(to),
          "l"(from), "r"(bytes), "r"(barrier(n_requested_))
          : "memory");
    }
#else
    for (int i = 16 * (static_cast<int>(threadIdx.x) % 32); i < bytes; i += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    ++n_requested_;
  }

  /// Waits for the next piece.
  __device__ const unsigned char* receive() const {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred ready;\nagain_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ready, [%0], %1;\n"
        "@!ready bra again_%=;\n}" ::"r"(barrier(n_released_)),
        "r"(n_released_ / kStages & 1)
        : "memory");
#else
    if (is_full()) {
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncwarp();
#endif
    return stage(n_released_);
  }

  /// The piece received last has been read, and its stage is free.
  __device__ void release() {
    __syncwarp();
    ++n_released_;
  }

 private:
  __device__ static unsigned address_of(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
  }
  __device__ static bool is_first_lane() { return threadIdx.x % 32 == 0; }
  __device__ unsigned char* stage(unsigned piece) const {
    return memory_ + static_cast<int>(piece % kStages) * stage_bytes_;
  }
  __device__ unsigned barrier(unsigned piece) const {
    return address_of(barriers_ + piece % kStages);
  }

  unsigned char* memory_;
  int stage_bytes_;
  uint64_t* barriers_;
  unsigned n_requested_ = 0;
  unsigned n_released_ = 0;
};

}  // namespace d2q::cuda
