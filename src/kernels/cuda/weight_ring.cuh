// Queues of pieces of global memory on their way into shared memory, one for each warp that
// multiplies. More warps, the feeders, ask for the pieces, so that those that multiply spend no
// instructions on it, or each warp does that itself. On Hopper a lane hands each piece to the bulk
// copy engine; before, a warp's lanes copy 16 bytes each asynchronously.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace d2q::cuda {

/// Where the queues of kWarps warps lie, each with room for kStages pieces.
template <int kWarps, int kStages>
struct WeightRings {
  static_assert((kStages & (kStages - 1)) == 0 && kWarps <= 32);
  static constexpr int kBarriers = 2 * kWarps * kStages;

  unsigned char* memory;  // kWarps * kStages * stage_bytes, on 16
  uint64_t* barriers;     // kBarriers
  int stage_bytes;

  /// By all threads, at least kBarriers / 2 of them; they have to meet before they go on.
  __device__ void prepare() const {
    constexpr int kFeeders = kBulk ? 1 : 32;  // of a piece
    const int i = static_cast<int>(threadIdx.x);
    if (i < kBarriers / 2) {
      initialize(arrived(i / kStages, static_cast<unsigned>(i)), kFeeders);
      initialize(free(i / kStages, static_cast<unsigned>(i)), 1);
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  }

  __device__ unsigned char* stage(int warp, unsigned piece) const {
    return memory + (warp * kStages + static_cast<int>(piece % kStages)) * stage_bytes;
  }
  /// Barriers of a piece's stage: of its arrival, and of its having been read.
  __device__ unsigned arrived(int warp, unsigned piece) const {
    return address_of(barriers + warp * kStages + static_cast<int>(piece % kStages));
  }
  __device__ unsigned free(int warp, unsigned piece) const {
    return arrived(warp, piece) + kWarps * kStages * 8;
  }
  __device__ static unsigned address_of(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
  }
  /// Whether the phase of that parity is over.
  __device__ static bool is_over(unsigned barrier, unsigned parity) {
    unsigned over;
    asm volatile(
        "{\n.reg .pred over;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\n"
        "selp.u32 %0, 1, 0, over;\n}"
        : "=r"(over)
        : "r"(barrier), "r"(parity)
        : "memory");
    return over != 0;
  }

#if __CUDA_ARCH__ >= 900
  static constexpr bool kBulk = true;
#else
  static constexpr bool kBulk = false;
#endif

 private:
  __device__ static void initialize(unsigned barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
  }
};

/// Starts a piece's copy: one lane on Hopper, all lanes before.
template <typename Rings>
__device__ void copy_piece(const Rings& rings, int warp, unsigned piece, const unsigned char* from,
                           int bytes) {
  const unsigned to = Rings::address_of(rings.stage(warp, piece));
  const unsigned barrier = rings.arrived(warp, piece);
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
#else
  for (int i = 16 * (static_cast<int>(threadIdx.x) % 32); i < bytes; i += 16 * 32) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i)
                 : "memory");
  }
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

/// A warp's view of its queue; without feeders it asks itself. All lanes call every function.
template <int kWarps, int kStages, bool kFed>
class WeightRing {
 public:
  using Rings = WeightRings<kWarps, kStages>;
  __device__ WeightRing(const Rings& rings, int warp) : rings_(rings), warp_(warp) {}

  /// Whether as many pieces are under way, or received and not released, as there is room for.
  __device__ bool is_full() const { return n_asked_ - n_read_ == kStages; }
  /// Without feeders: starts the copy of the piece after the last one. bytes: a multiple of 16, at
  /// most stage_bytes.
  __device__ void request(int lane, const unsigned char* from, int bytes) {
    static_assert(!kFed);
    if (!Rings::kBulk || lane == 0) copy_piece(rings_, warp_, n_asked_, from, bytes);
    ++n_asked_;
  }

  /// Waits for the next piece.
  __device__ const unsigned char* receive() const {
    const unsigned barrier = rings_.arrived(warp_, n_read_), parity = n_read_ / kStages & 1;
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n.reg .pred ready;\nagain_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ready, [%0], %1;\n"
        "@!ready bra again_%=;\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
#else
    while (!Rings::is_over(barrier, parity)) {
    }
#endif
    return rings_.stage(warp_, n_read_);
  }

  /// The piece received last has been read.
  __device__ void release(int lane) {
    __syncwarp();
    if (kFed && lane == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(rings_.free(warp_, n_read_))
                   : "memory");
    }
    ++n_read_;
  }

 private:
  Rings rings_;
  int warp_;
  unsigned n_asked_ = 0;
  unsigned n_read_ = 0;
};

/// How long a feeder rests when all queues are full; a piece takes a warp several times as long.
constexpr unsigned kIdleNanoseconds = 200;

/// One of kFeeders feeders: each lane, of the first ones, asks for the pieces of a warp of its own,
/// `served_warp()`. One feeder for all would be too slow: a warp issues an instruction every seven
/// cycles or so. next(from, bytes): a lane's next piece, a multiple of 16 bytes, at most
/// stage_bytes; false when it has no more. (Bringing later pieces into the L2 cache meanwhile made
/// decoding slower: 8 ahead by 5%, 4 by 1%.)
template <int kFeeders, int kWarps, int kStages>
class Feeder {
 public:
  using Rings = WeightRings<kWarps, kStages>;
  static constexpr int kServed = kWarps / kFeeders;
  static_assert(kWarps % kFeeders == 0);

  /// The warps after those that multiply are the feeders.
  __device__ explicit Feeder(const Rings& rings)
      : rings_(rings),
        lane_(static_cast<int>(threadIdx.x % 32)),
        warp_((static_cast<int>(threadIdx.x / 32) - kWarps) * kServed + lane_) {}
  __device__ bool serves() const { return lane_ < kServed; }
  __device__ int served_warp() const { return warp_; }

  /// All lanes call.
  template <typename Next>
  __device__ void run(const Next& next) const {
    constexpr unsigned kAll = 0xffffffffu;
    const unsigned char* from = nullptr;
    int bytes = 0;
    bool has_piece = serves() && next(from, bytes);
    unsigned n_asked = 0;
    while (__any_sync(kAll, has_piece)) {
      // Of a barrier that nobody has used the phase before the first one is over.
      const bool is_free =
          has_piece && Rings::is_over(rings_.free(warp_, n_asked), (n_asked / kStages & 1) ^ 1);
      const unsigned free_lanes = __ballot_sync(kAll, is_free);
      if (free_lanes == 0) __nanosleep(kIdleNanoseconds);
      copy(free_lanes, is_free, n_asked, from, bytes);
      if (is_free) {
        ++n_asked;
        has_piece = next(from, bytes);
      }
    }
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.wait_all;" ::: "memory");  // before the warp is gone
#endif
  }

 private:
  __device__ void copy(unsigned free_lanes, bool is_free, unsigned piece, const unsigned char* from,
                       int bytes) const {
    if constexpr (Rings::kBulk) {
      if (is_free) copy_piece(rings_, warp_, piece, from, bytes);
    } else {
      const auto address = reinterpret_cast<unsigned long long>(from);
      for (; free_lanes != 0; free_lanes &= free_lanes - 1) {
        constexpr unsigned kAll = 0xffffffffu;
        const int lane = __ffs(static_cast<int>(free_lanes)) - 1;
        copy_piece(rings_, __shfl_sync(kAll, warp_, lane), __shfl_sync(kAll, piece, lane),
                   reinterpret_cast<const unsigned char*>(__shfl_sync(kAll, address, lane)),
                   __shfl_sync(kAll, bytes, lane));
      }
    }
  }

  Rings rings_;
  int lane_;
  int warp_;
};

}  // namespace d2q::cuda
