// <immintrin.h> without gcc 12's false alarms: its AVX-512 wrappers pass an "undefined" register
// that -Wuninitialized takes for a mistake (gcc bug 105593).
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
