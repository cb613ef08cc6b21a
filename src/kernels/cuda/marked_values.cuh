// Values that one block of threads hands to others while all of them run, without a barrier. The
// lowest bit of an f32 value is its mark: a reader asks for a value until it bears the mark of the
// round in which it is to be written, so that writing, noticing and reading take one way through
// the L2 cache instead of three. The value is off by 2^-23 of itself at most; infinity may become
// NaN, as which it reaches products in any case.
#pragma once

#include <cuda_runtime.h>

namespace d2q::cuda {

/// words[i] is value i once its lowest bit is `mark`. Without a mark (-1) the values are plain f32,
/// there from the start.
struct MarkedValues {
  unsigned* words;
  int mark;

  __device__ bool is_there(unsigned word) const {
    return mark < 0 || (word & 1u) == static_cast<unsigned>(mark);
  }
  /// Past L1, and every time anew.
  __device__ unsigned ask(int i) const {
    unsigned word;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(words + i) : "memory");
    return word;
  }
  __device__ float read(int i) const {
    unsigned word = ask(i);
    while (!is_there(word)) word = ask(i);
    return __uint_as_float(word);
  }
  /// Only with a mark.
  __device__ void write(int i, float value) const {
    const unsigned word = (__float_as_uint(value) & ~1u) | static_cast<unsigned>(mark);
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(words + i), "r"(word) : "memory");
  }
};

/// kCount values a lane: value k is number first + offset(k), 0 from `end` on; offsets rise. In two
/// steps, so that a warp can do something else while the first answers are on their way.
template <int kCount, typename Offset>
struct MarkedReads {
  unsigned words[kCount];

  /// Loads past L1; the compiler may not move them over what settle() does.
  __device__ void ask(const MarkedValues& from, int first, int end, const Offset& offset) {
    const unsigned* place = from.words + first;
    if (first + offset(kCount - 1) < end) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) words[k] = __ldcg(place + offset(k));
      return;
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (first + offset(k) < end) words[k] = __ldcg(place + offset(k));
    }
  }
  /// Waits for those that were not there yet, one at a time, and then asks for all once more.
  __device__ void settle(const MarkedValues& from, int first, int end, const Offset& offset,
                         float (&values)[kCount]) {
    const unsigned mark = static_cast<unsigned>(from.mark);
    while (from.mark >= 0) {
      unsigned wrong = 0;
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if (first + offset(k) < end) wrong |= words[k] ^ mark;
      }
      const bool there = (wrong & 1u) == 0;
      if (__all_sync(0xffffffffu, there)) break;
      if (!there) {
        int missing = 0;
#pragma unroll
        for (int k = kCount - 1; k >= 0; --k) {
          if (first + offset(k) < end && !from.is_there(words[k])) missing = offset(k);
        }
        from.read(first + missing);
      }
      __syncwarp();
      ask(from, first, end, offset);
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      values[k] = first + offset(k) < end ? __uint_as_float(words[k]) : 0.0f;
    }
  }
};

/// Both steps at once, for few values or few warps.
template <int kCount, typename Offset>
__device__ void read_marked(const MarkedValues& from, int first, int end, const Offset& offset,
                            float (&values)[kCount]) {
  bool there;
  do {
    there = true;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      values[k] = 0.0f;
      if (first + offset(k) < end) {
        const unsigned word = from.ask(first + offset(k));
        there = there && from.is_there(word);
        values[k] = __uint_as_float(word);
      }
    }
  } while (!__all_sync(0xffffffffu, there));
}

}  // namespace d2q::cuda
