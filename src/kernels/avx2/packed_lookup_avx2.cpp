// Sign planes with AVX2: sums looked up instead of multiplied.
//
// vpshufb has 16 entries for the 16 bytes of a lane: the sums of every subset of four columns,
// where all bytes of a lane hold bits of the same columns, as plane_order.h arranges them. Without
// their smallest the sums have 16 bits: two lookups.
//
// Looked-up bytes are added as bytes, twice: their sum modulo 256 (vpaddb) and their mean, in a
// tree of vpavgb. Each of the tree's five levels rounds up by a half at most, so the sum of a
// block's 32 bytes lies between 32 mean - 80 and 32 mean, and its low byte says where: exact in two
// operations a lookup, where widening to 16 bits takes three.
#include <immintrin.h>

#include <cstdint>

#include "codec/packed_atoms.h"
#include "kernels/avx2/packed_loads_inl.h"
#include "kernels/avx2/plane_order.h"
#include "kernels/packed_kernels.h"
#include "kernels/prefetch.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kRows = 16;
constexpr int64_t kHalfRows = 8;
constexpr int kPlaces = 4;  // b, of a byte in its dword

/// A step's tables, 8 of 16 sums in two bytes: of planes 0 and 1, and behind them of plane 2, whose
/// nibbles are columns of one atom.
constexpr int64_t kTablesBytes = 256;

/// All that meet codes: two tokens are twice as fast looked up as multiplied.
constexpr int64_t kMaxTokens = 16;

/// The sums that are looked up have their high bytes' mean less 128, so that it fits in a signed
/// word: 32 * 256 * 128.
constexpr int32_t kMeanBias = 32 << 15;

/// The halves of a and b that bits 0 to 1 and 4 to 5 of kHalves choose.
template <int kHalves>
__m256i halves(__m256i a, __m256i b) noexcept {
  return _mm256_permute2x128_si256(a, b, kHalves);
}

// --- tables --------------------------------------------------------------------------------------

/// Shuffles words [positive part of b = 0 to 3, negative part] to what a column adds to 8 entries:
/// the columns of an entry's bits 0 to 2, and bit 3 where it is clear and where it is set.
struct EntryShuffles {
  uint8_t bytes[kPlaces][5][32] = {};

  constexpr EntryShuffles() {
    for (int b = 0; b < kPlaces; ++b) {
      for (int i = 0; i < 5; ++i) {
        for (int entry = 0; entry < 16; ++entry) {
          const bool set = i < 3 ? entry >> i & 1 : i == 4;
          const int word = (set ? 0 : 4) + b;
          bytes[b][i][2 * entry] = static_cast<uint8_t>(2 * word);
          bytes[b][i][2 * entry + 1] = static_cast<uint8_t>(2 * word + 1);
        }
      }
    }
  }
};
constexpr EntryShuffles kShuffles;

/// Four columns of each b and lane, as EntryShuffles takes them, in the order of the index's bits.
struct Quads {
  __m256i columns[4];
};

/// The low and the high bytes of both lanes' sums.
struct Tables {
  __m256i low, high;
};

Tables subset_sums(const Quads& quads, int b) noexcept {
  const auto part = [&](int column, int shuffle) {
    return _mm256_shuffle_epi8(quads.columns[column], load256(kShuffles.bytes[b][shuffle]));
  };
  const __m256i three = _mm256_add_epi16(_mm256_add_epi16(part(0, 0), part(1, 1)), part(2, 2));
  const __m256i clear = _mm256_add_epi16(three, part(3, 3));
  const __m256i set = _mm256_add_epi16(three, part(3, 4));
  const __m256i byte = _mm256_set1_epi16(255);
  return {_mm256_packus_epi16(_mm256_and_si256(clear, byte), _mm256_and_si256(set, byte)),
          _mm256_packus_epi16(_mm256_srli_epi16(clear, 8), _mm256_srli_epi16(set, 8))};
}

/// Words [p][b]: the parts of p = 0, 1 in each lane's words, then of p = 2, 3 likewise.
struct Parts {
  __m256i even, odd;  // the lanes' first and second column

  explicit Parts(__m256i q) noexcept {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i positive = _mm256_max_epi16(q, zero);
    const __m256i negative = _mm256_max_epi16(_mm256_sub_epi16(zero, q), zero);
    even = _mm256_unpacklo_epi64(positive, negative);
    odd = _mm256_unpackhi_epi64(positive, negative);
  }
};

int32_t build_tables(const int8_t* high, const int8_t* low, int64_t n_steps, int n_planes,
                     uint8_t* tables) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  __m256i offsets = zero;
  for (int64_t s = 0; s < n_steps; ++s) {
    __m256i q[2];  // of the atoms
    D2Q_UNROLL
    for (int atom = 0; atom < 2; ++atom) {
      const int64_t column = kStepColumns * s + 16 * atom;
      q[atom] = load_digits(high + column);
      if (low != nullptr) {
        q[atom] = _mm256_add_epi16(_mm256_slli_epi16(q[atom], 8), load_digits(low + column));
      }
      const __m256i negative = _mm256_max_epi16(_mm256_sub_epi16(zero, q[atom]), zero);
      offsets = _mm256_add_epi32(offsets, _mm256_madd_epi16(negative, _mm256_set1_epi16(1)));
    }
    // A lane has the columns of one nibble: p = 0, 1 or p = 2, 3 of both atoms.
    const Parts first(q[0]), second(q[1]);
    const Quads of_step = {{first.even, second.even, first.odd, second.odd}};
    D2Q_UNROLL
    for (int b = 0; b < kPlaces; ++b, tables += 64) {
      const Tables sums = subset_sums(of_step, b);
      store256(tables, sums.low);
      store256(tables + 32, sums.high);
    }
    if (n_planes < 3) continue;
    // A lane has the columns of an atom.
    const Parts begin(halves<0x20>(q[0], q[1])), end(halves<0x31>(q[0], q[1]));
    const Quads of_atoms = {{begin.even, begin.odd, end.even, end.odd}};
    D2Q_UNROLL
    for (int b = 0; b < kPlaces; b += 2, tables += 128) {
      const Tables even = subset_sums(of_atoms, b), odd = subset_sums(of_atoms, b + 1);
      store256(tables, halves<0x20>(even.low, odd.high));
      store256(tables + 32, halves<0x20>(even.high, odd.low));
      store256(tables + 64, halves<0x31>(even.low, odd.high));
      store256(tables + 96, halves<0x31>(even.high, odd.low));
    }
  }
  __m128i sum =
      _mm_add_epi32(_mm256_castsi256_si128(offsets), _mm256_extracti128_si256(offsets, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1))) - kMeanBias;
}

// --- looked-up bytes and their sums --------------------------------------------------------------

/// Keeps gcc from gathering the additions of several lookups at the end of the block, which spills.
void pin(__m256i& value) noexcept { asm("" : "+x"(value)); }

/// Bytes that were added.
struct ByteSums {
  __m256i sum = _mm256_setzero_si256();   // modulo 256
  __m256i mean = _mm256_setzero_si256();  // each addition rounded up
};

D2Q_ALWAYS_INLINE ByteSums sum_of(__m256i a, __m256i b) noexcept {
  ByteSums result = {_mm256_add_epi8(a, b), _mm256_avg_epu8(a, b)};
  pin(result.sum);
  pin(result.mean);
  return result;
}

D2Q_ALWAYS_INLINE ByteSums sum_of(const ByteSums& a, const ByteSums& b) noexcept {
  ByteSums result = {_mm256_add_epi8(a.sum, b.sum), _mm256_avg_epu8(a.mean, b.mean)};
  pin(result.sum);
  pin(result.mean);
  return result;
}

/// 32 times the mean, minus the sum: at most 80.
D2Q_ALWAYS_INLINE __m256i excess_of(const ByteSums& sums) noexcept {
  const __m256i shifted =
      _mm256_and_si256(_mm256_slli_epi16(sums.mean, 5), _mm256_set1_epi8(static_cast<char>(0xe0)));
  return _mm256_sub_epi8(shifted, sums.sum);
}

/// The sums of both bytes.
struct LookedUp {
  ByteSums low, high;
};

D2Q_ALWAYS_INLINE LookedUp sum_of(const LookedUp& a, const LookedUp& b) noexcept {
  return {sum_of(a.low, b.low), sum_of(a.high, b.high)};
}

struct Rows16 {
  __m256i half[2];
};

/// kMeanBias too small, so that the means fit in a signed word: means and excesses as words
/// [row: low byte, high byte]. 8 rows, 4 of each lane.
D2Q_ALWAYS_INLINE Rows16 dots_of(__m256i means, __m256i excesses) noexcept {
  const __m256i weights = _mm256_set1_epi32(32 - (1 << 16));  // words 32, -1
  return {{_mm256_madd_epi16(_mm256_unpacklo_epi16(means, excesses), weights),
           _mm256_madd_epi16(_mm256_unpackhi_epi16(means, excesses), weights)}};
}

struct Indices {
  __m256i low, high;

  D2Q_ALWAYS_INLINE explicit Indices(__m256i nibbles) noexcept {
    low = _mm256_and_si256(nibbles, _mm256_set1_epi8(15));
    high = _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), _mm256_set1_epi8(15));
  }
};

// --- planes 0 and 1 ------------------------------------------------------------------------------

/// Both planes of a step, arranged: vector b has the bytes of place b.
struct TwoPlanes {
  static constexpr int64_t kBytes = 2 * kAtomBytes;
  __m256i places[kPlaces];

  D2Q_ALWAYS_INLINE void load(const uint8_t* arranged) noexcept {
    D2Q_UNROLL
    for (int b = 0; b < kPlaces; ++b) places[b] = load256(arranged + 32 * b);
  }

  D2Q_ALWAYS_INLINE LookedUp look_up_place(int b, const uint8_t* tables) const noexcept {
    const auto bytes = [&](int part, __m256i index) {
      const auto* table = reinterpret_cast<const __m128i*>(tables + 64 * b + 16 * part);
      return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table)), index);
    };
    const Indices index(places[b]);
    return {sum_of(bytes(0, index.low), bytes(1, index.high)),
            sum_of(bytes(2, index.low), bytes(3, index.high))};
  }

  D2Q_ALWAYS_INLINE LookedUp look_up(const uint8_t* tables) const noexcept {
    const LookedUp begin = sum_of(look_up_place(0, tables), look_up_place(1, tables));
    return sum_of(begin, sum_of(look_up_place(2, tables), look_up_place(3, tables)));
  }

  /// dots[k] of a block's sums.
  D2Q_ALWAYS_INLINE static void finish(const LookedUp& sums, Rows16* dots) noexcept {
    const __m256i high_mean =
        _mm256_xor_si256(sums.high.mean, _mm256_set1_epi8(static_cast<char>(0x80)));
    const __m256i low_excess = excess_of(sums.low), high_excess = excess_of(sums.high);
    dots[0] = dots_of(_mm256_unpacklo_epi8(sums.low.mean, high_mean),
                      _mm256_unpacklo_epi8(low_excess, high_excess));
    dots[1] = dots_of(_mm256_unpackhi_epi8(sums.low.mean, high_mean),
                      _mm256_unpackhi_epi8(low_excess, high_excess));
  }
};

// --- plane 2 -------------------------------------------------------------------------------------

/// Plane 2 of a step, arranged: vector i has the bytes of place 2i in its low lane and of 2i + 1 in
/// its high one.
struct ThirdPlane {
  __m256i places[2];

  D2Q_ALWAYS_INLINE void load(const uint8_t* arranged) noexcept {
    places[0] = load256(arranged);
    places[1] = load256(arranged + 32);
  }

  /// `low`: low bytes of even places, high bytes of odd ones; `high`: the others.
  D2Q_ALWAYS_INLINE LookedUp look_up(const uint8_t* tables) const noexcept {
    LookedUp sums[2];
    D2Q_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Indices index(places[i]);
      const auto bytes = [&](int part, __m256i entries) {
        return _mm256_shuffle_epi8(load256(tables + 128 * i + 32 * part), entries);
      };
      sums[i] = {sum_of(bytes(0, index.low), bytes(2, index.high)),
                 sum_of(bytes(1, index.low), bytes(3, index.high))};
    }
    return sum_of(sums[0], sums[1]);
  }

  D2Q_ALWAYS_INLINE static void finish(const LookedUp& crossed, Rows16* dots) noexcept {
    const ByteSums others = {_mm256_permute4x64_epi64(crossed.high.sum, 0x4e),
                             _mm256_permute4x64_epi64(crossed.high.mean, 0x4e)};
    // Low bytes in the low lane; then those of 8 rows in each lane's low half, high bytes in the
    // other.
    const ByteSums sums = sum_of(crossed.low, others);
    const __m256i flip = halves<0x20>(_mm256_setzero_si256(), _mm256_set1_epi8(-128));
    const auto as_words = [](__m256i bytes) {
      const __m256i rows = _mm256_permute4x64_epi64(bytes, 0xd8);
      return _mm256_unpacklo_epi8(rows, _mm256_srli_si256(rows, 8));
    };
    dots[0] = dots_of(as_words(_mm256_xor_si256(sums.mean, flip)), as_words(excess_of(sums)));
  }
};

// --- a tile --------------------------------------------------------------------------------------

/// The dot products of a block with `Planes`, whose bytes start at `codes` in the first step. Steps
/// that a short block lacks count as zeros: the tree has 32 bytes. kFull: n_steps == kBlockSteps.
template <typename Planes, int64_t kStepBytes, bool kFull>
D2Q_ALWAYS_INLINE void add_up(const uint8_t* codes, const uint8_t* tables, int64_t table_stride,
                              int64_t n_steps, Rows16* dots) noexcept {
  LookedUp sums[kBlockSteps];
  if constexpr (kFull) {
    // All of them first: lookups wait for what precedes them.
    Planes planes[kBlockSteps];
    D2Q_UNROLL
    for (int s = 0; s < kBlockSteps; ++s) planes[s].load(codes + s * kStepBytes);
    D2Q_UNROLL
    for (int s = 0; s < kBlockSteps; s += 2) {
      sums[s] = planes[s].look_up(tables + s * table_stride);
      sums[s] = sum_of(sums[s], planes[s + 1].look_up(tables + (s + 1) * table_stride));
    }
  } else {
    for (int64_t s = 0; s < n_steps; ++s) {
      Planes planes;
      planes.load(codes + s * kStepBytes);
      sums[s] = planes.look_up(tables + s * table_stride);
    }
    sums[0] = sum_of(sums[0], sums[1]);
    sums[2] = sum_of(sums[2], sums[3]);
  }
  Planes::finish(sum_of(sums[0], sums[2]), dots);
}

template <int kPlanes, bool kFull>
D2Q_ALWAYS_INLINE void block_dots(const uint8_t* step, const uint8_t* tables, int64_t table_stride,
                                  int64_t n_steps, Rows16* dots) noexcept {
  constexpr int64_t kStepBytes = step_bytes(kPlanes);
  D2Q_PREFETCH(step, n_steps * kStepBytes);
  add_up<TwoPlanes, kStepBytes, kFull>(step, tables, table_stride, n_steps, dots);
  if constexpr (kPlanes == 3) {
    add_up<ThirdPlane, kStepBytes, kFull>(step + TwoPlanes::kBytes, tables + kTablesBytes,
                                          table_stride, n_steps, dots + 2);
  }
}

template <int kPlanes>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = step_bytes(kPlanes);
  const __m256 two = _mm256_set1_ps(2.0f);
  const uint8_t* step = tile.codes;
  const uint8_t* tables = x.tables;
  int64_t block = 0;
  __m256 out[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t group = 0; group < tile.n_groups; ++group) {
    const uint16_t* params = tile.scales + group * kPlanes * kRows;
    D2Q_PREFETCH_SCALES(params, kPlanes * kRows);
    int64_t left = group + 1 == tile.n_groups ? tile.last_group_steps : tile.group_steps;
    for (; left > 0; left -= kBlockSteps, ++block) {
      const int64_t n_steps = left < kBlockSteps ? left : kBlockSteps;
      Rows16 dots[kPlanes];
      if (n_steps == kBlockSteps) {
        block_dots<kPlanes, true>(step, tables, x.table_stride, kBlockSteps, dots);
      } else {
        block_dots<kPlanes, false>(step, tables, x.table_stride, n_steps, dots);
      }
      const __m256 scale = _mm256_set1_ps(x.scale[block]);
      const __m256 offset = _mm256_set1_ps(x.table_offset[block]);
      D2Q_UNROLL
      for (int half = 0; half < 2; ++half) {
        D2Q_UNROLL
        for (int k = 0; k < kPlanes; ++k) {
          const __m256 r = load_half8(params + k * kRows + half * kHalfRows);
          const __m256 dot = _mm256_cvtepi32_ps(dots[k].half[half]);
          out[half] = _mm256_fmadd_ps(_mm256_mul_ps(r, scale), _mm256_fmsub_ps(two, dot, offset),
                                      out[half]);
        }
      }
      step += n_steps * kStepBytes;
      tables += n_steps * x.table_stride;
    }
  }
  _mm256_storeu_ps(y, out[0]);
  _mm256_storeu_ps(y + kHalfRows, out[1]);
}

}  // namespace

const LookupKernels kLookupKernelsAvx2 = {{kTablesBytes, 2 * kTablesBytes},
                                          kMaxTokens,
                                          true,
                                          build_tables,
                                          {mat_vec<2>, mat_vec<3>},
                                          {arrange_two_planes, arrange_three_planes},
                                          {restore_two_planes, restore_three_planes}};

}  // namespace d2q
