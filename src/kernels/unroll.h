// Full unrolling of short constant loops, and functions that are always part of their caller: what
// keeps arrays of registers in registers.
#pragma once

#ifdef __clang__
#define D2Q_UNROLL _Pragma("unroll")
#else
#define D2Q_UNROLL _Pragma("GCC unroll 16")
#endif

#define D2Q_ALWAYS_INLINE inline __attribute__((always_inline))
