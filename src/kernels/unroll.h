// Full unrolling of short constant loops, which keeps arrays of registers in registers.
#pragma once

#ifdef __clang__
#define D2Q_UNROLL _Pragma("unroll")
#else
#define D2Q_UNROLL _Pragma("GCC unroll 16")
#endif
