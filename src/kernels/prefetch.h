// How the packed kernels ask for the memory that they stream. Included by files that are compiled
// with ISA flags: macros and constants only, since an inline function could be emitted as a weak
// symbol.
//
// A kernel walks one row tile after another: one stream of codes and one of scales a thread. Zen 4
// drops prefetches that find its miss buffers busy, and those of several streams or into the
// level-1 cache get into the hardware prefetcher's way. A long lead into the level-2 cache gives it
// time.
#pragma once

#include <cstdint>

namespace d2q {

inline constexpr int64_t kPrefetchBytes = 16 << 10;
/// The scales are a stream of their own, about a ninth of the codes.
inline constexpr int64_t kPrefetchScales = 1 << 10;

}  // namespace d2q

/// Asks for [begin, begin + n_bytes) of the codes, shifted by the lead.
#define D2Q_PREFETCH(begin, n_bytes)                               \
  for (int64_t d2q_line = 0; d2q_line < (n_bytes); d2q_line += 64) \
  __builtin_prefetch(reinterpret_cast<const char*>(begin) + d2q::kPrefetchBytes + d2q_line, 0, 2)

/// The same for [begin, begin + count) of fp16 scales.
#define D2Q_PREFETCH_SCALES(begin, count)                           \
  for (int64_t d2q_scale = 0; d2q_scale < (count); d2q_scale += 32) \
  __builtin_prefetch((begin) + d2q::kPrefetchScales + d2q_scale, 0, 2)
