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

/// How long a warp rests between questions for what it lacks. Asking without a rest is as fast.
constexpr unsigned kPollNanoseconds = 20;

/// Eight values a lane, four from a multiple of 4 on and four kApart later, 0 from `end` on; values
/// start on 16 bytes. In two steps, so that a warp can do something else while the first answers
/// are on their way. kRegular: `end` is a multiple of 4, too.
template <int kApart, bool kRegular>
struct MarkedPair {
  unsigned words[8];

  __device__ void ask(const MarkedValues& from, int first, int end) {
    ask_half(from, first, end, 0);
    ask_half(from, first + kApart, end, 4);
  }
  /// Asks again for what is not there yet, until it is.
  __device__ void settle(const MarkedValues& from, int first, int end, float (&values)[8]) {
    while (from.mark >= 0) {
      const bool lacks_first = lacks_half(from.mark, 0), lacks_second = lacks_half(from.mark, 4);
      if (!__any_sync(0xffffffffu, lacks_first || lacks_second)) break;
      __nanosleep(kPollNanoseconds);
      if (lacks_first) ask_half(from, first, end, 0);
      if (lacks_second) ask_half(from, first + kApart, end, 4);
      __syncwarp();
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const bool there =
          kRegular ? first + k / 4 * kApart < end : first + k / 4 * kApart + k % 4 < end;
      values[k] = there ? __uint_as_float(words[k]) : 0.0f;
    }
  }

 private:
  __device__ void ask_half(const MarkedValues& from, int place, int end, int half) {
    if (kRegular ? place < end : place + 4 <= end) {
      asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[half]), "=r"(words[half + 1]), "=r"(words[half + 2]),
                     "=r"(words[half + 3])
                   : "l"(from.words + place)
                   : "memory");
      return;
    }
    // What is beyond the end bears the mark.
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      words[half + k] =
          !kRegular && place + k < end ? from.ask(place + k) : static_cast<unsigned>(from.mark);
    }
  }
  __device__ bool lacks_half(int mark, int half) const {
    const unsigned m = static_cast<unsigned>(mark);
    return (((words[half] ^ m) | (words[half + 1] ^ m) | (words[half + 2] ^ m) |
             (words[half + 3] ^ m)) &
            1u) != 0;
  }
};

/// kCount values a lane at once, for few warps: value k is number first + offset(k), 0 from `end`
/// on.
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
