// Sign planes with AVX2: sums looked up instead of multiplied.
//
// vpshufb has 16 entries for all bytes of a dword, so an entry is chosen by the byte's place b and
// the bits of two columns. Without their smallest, the sums of two columns have 16 bits: two
// lookups. The high bytes of a quad's two pairs add up to a byte, since the quad's sums fit in two.
// An atom of two planes takes 8 lookups and 6 additions of pairs for 8 rows, where products take 16
// of those and as many multiplications.
#include <immintrin.h>

#include <cstdint>

#include "codec/packed_atoms.h"
#include "kernels/packed_kernels.h"
#include "kernels/prefetch.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kRows = 16;
constexpr int64_t kHalfRows = 8;
constexpr int64_t kHalfAtomBytes = 32;

/// Where an index has the bits of the two columns and those of the place b: where the codes have
/// the columns' bits, in a nibble.
struct Arrangement {
  int columns[2];
  int place[2];

  constexpr int place_of(int entry) const {
    return (entry >> place[0] & 1) | (entry >> place[1] & 1) << 1;
  }
  /// The bits of b within a byte's index.
  constexpr int bits_of_place(int b) const { return (b & 1) << place[0] | (b >> 1) << place[1]; }
  constexpr int mask() const { return 1 << columns[0] | 1 << columns[1]; }
};
constexpr Arrangement kPlane0 = {{0, 2}, {1, 3}};
constexpr Arrangement kPlane1 = {{1, 3}, {0, 2}};
constexpr Arrangement kPlane2Low = {{0, 1}, {2, 3}};   // the first pair's
constexpr Arrangement kPlane2High = {{2, 3}, {0, 1}};  // the second pair's

/// A pair's table: 16 low bytes, 16 high bytes. In the order [plane][pair].
constexpr int64_t kPairBytes = 32;
constexpr int64_t kPlaneBytes = 2 * kPairBytes;
constexpr int64_t kTableBytes = 3 * kPlaneBytes;
constexpr Arrangement kArrangements[] = {kPlane0, kPlane0,    kPlane1,
                                         kPlane1, kPlane2Low, kPlane2High};

/// Shuffles words [positive part b, negative part b] of a column to what it adds to each entry.
struct EntryShuffle {
  uint8_t bytes[2][32] = {};  // of the pair's columns

  explicit constexpr EntryShuffle(const Arrangement& arrangement) {
    for (int column = 0; column < 2; ++column) {
      for (int entry = 0; entry < 16; ++entry) {
        const bool set = entry >> arrangement.columns[column] & 1;
        const int word = (set ? 0 : 4) + arrangement.place_of(entry);
        bytes[column][2 * entry] = static_cast<uint8_t>(2 * word);
        bytes[column][2 * entry + 1] = static_cast<uint8_t>(2 * word + 1);
      }
    }
  }
};
constexpr EntryShuffle kShuffles[] = {
    EntryShuffle(kArrangements[0]), EntryShuffle(kArrangements[1]), EntryShuffle(kArrangements[2]),
    EntryShuffle(kArrangements[3]), EntryShuffle(kArrangements[4]), EntryShuffle(kArrangements[5])};

__m256i load256(const void* bytes) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

__m256i load_digits(const int8_t* digits) noexcept {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(digits)));
}

int32_t build_tables(const int8_t* high, const int8_t* low, int64_t n_steps,
                     uint8_t* tables) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  __m256i offsets = zero;
  for (int64_t atom = 0; atom < 2 * n_steps; ++atom, tables += kTableBytes) {
    // Words [p][b].
    const __m256i q = _mm256_add_epi16(_mm256_slli_epi16(load_digits(high + 16 * atom), 8),
                                       load_digits(low + 16 * atom));
    const __m256i positive = _mm256_max_epi16(q, zero);
    const __m256i negative = _mm256_max_epi16(_mm256_sub_epi16(zero, q), zero);
    offsets = _mm256_add_epi32(offsets, _mm256_madd_epi16(negative, _mm256_set1_epi16(1)));
    // A lane has both parts of one column of each pair.
    const __m256i first = _mm256_unpacklo_epi64(positive, negative);
    const __m256i second = _mm256_unpackhi_epi64(positive, negative);
    const __m256i columns[2][2] = {{_mm256_permute2x128_si256(first, first, 0x00),
                                    _mm256_permute2x128_si256(second, second, 0x00)},
                                   {_mm256_permute2x128_si256(first, first, 0x11),
                                    _mm256_permute2x128_si256(second, second, 0x11)}};
    D2Q_UNROLL
    for (int table = 0; table < 6; ++table) {
      const EntryShuffle& shuffle = kShuffles[table];
      const __m256i sums =
          _mm256_add_epi16(_mm256_shuffle_epi8(columns[table % 2][0], load256(shuffle.bytes[0])),
                           _mm256_shuffle_epi8(columns[table % 2][1], load256(shuffle.bytes[1])));
      const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(sums, _mm256_set1_epi16(255)),
                                                _mm256_srli_epi16(sums, 8));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(tables + table * kPairBytes),
                          _mm256_permute4x64_epi64(bytes, 0xd8));
    }
  }
  __m128i sum =
      _mm_add_epi32(_mm256_castsi256_si128(offsets), _mm256_extracti128_si256(offsets, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

__m256 load_half8(const uint16_t* halves) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}

/// Keeps gcc from gathering the additions of several lookups at the end of the loop, which spills.
void pin(__m256i& sum) noexcept { asm("" : "+x"(sum)); }

void add_pairs(__m256i& sum, __m256i bytes) noexcept {
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)));
  pin(sum);
}

/// The nibble's bits of two columns in each byte, as indices.
template <int kMask, int kPlaces>
__m256i indices(__m256i codes) noexcept {
  return _mm256_or_si256(_mm256_and_si256(codes, _mm256_set1_epi8(kMask)),
                         _mm256_set1_epi32(kPlaces));
}

constexpr int places_of(const Arrangement& arrangement) {
  int places = 0;
  for (int b = 0; b < 4; ++b) places |= arrangement.bits_of_place(b) << 8 * b;
  return places;
}
template <int kTable>
constexpr int kMaskOf = kArrangements[kTable].mask();
template <int kTable>
constexpr int kPlacesOf = places_of(kArrangements[kTable]);

/// The sums of one block and 8 rows, as int16 pairs of bytes.
template <int kPlanes>
struct LookedUpDots {
  __m256i low[kPlanes], high[kPlanes];

  void clear() noexcept {
    D2Q_UNROLL
    for (int k = 0; k < kPlanes; ++k) low[k] = high[k] = _mm256_setzero_si256();
  }

  /// The low and the high nibbles of `bytes` are the bits of the first and the second pair.
  template <int kPlane>
  void add_quads(__m256i first, __m256i second, const uint8_t* tables) noexcept {
    const auto table = [tables](int64_t pair, int64_t digit) {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(
          tables + kPlane * kPlaneBytes + pair * kPairBytes + digit * 16)));
    };
    const __m256i index0 = indices<kMaskOf<2 * kPlane>, kPlacesOf<2 * kPlane>>(first);
    const __m256i index1 = indices<kMaskOf<2 * kPlane + 1>, kPlacesOf<2 * kPlane + 1>>(second);
    add_pairs(low[kPlane], _mm256_shuffle_epi8(table(0, 0), index0));
    add_pairs(low[kPlane], _mm256_shuffle_epi8(table(1, 0), index1));
    add_pairs(high[kPlane], _mm256_add_epi8(_mm256_shuffle_epi8(table(0, 1), index0),
                                            _mm256_shuffle_epi8(table(1, 1), index1)));
  }

  /// `step` points at the half's 32 bytes of the step's first atom.
  void add_step(const uint8_t* step, const uint8_t* tables) noexcept {
    D2Q_UNROLL
    for (int atom = 0; atom < 2; ++atom) {
      const __m256i codes = load256(step + atom * kAtomBytes);
      const __m256i second = _mm256_srli_epi16(codes, 4);
      add_quads<0>(codes, second, tables + atom * kTableBytes);
      add_quads<1>(codes, second, tables + atom * kTableBytes);
      if constexpr (kPlanes == 3) {
        const __m256i third = load256(step + 2 * kAtomBytes);
        const __m256i nibble = atom == 0 ? third : _mm256_srli_epi16(third, 4);
        add_quads<2>(nibble, nibble, tables + atom * kTableBytes);
      }
    }
  }

  __m256 dot(int k, __m256i offset) const noexcept {
    const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(low[k], _mm256_set1_epi16(1)),
                                         _mm256_madd_epi16(high[k], _mm256_set1_epi16(256)));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, offset));
  }
};

template <int kPlanes>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = step_bytes(kPlanes);
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
      const __m256i offset = _mm256_set1_epi32(x.table_offset[block]);
      const __m256 scale = _mm256_set1_ps(x.scale[block]);
      const __m256 sum = _mm256_set1_ps(x.sum[block]);
      D2Q_PREFETCH(step, n_steps * kStepBytes);
      D2Q_UNROLL
      for (int half = 0; half < 2; ++half) {
        LookedUpDots<kPlanes> dots;
        dots.clear();
        for (int64_t s = 0; s < n_steps; ++s) {
          dots.add_step(step + s * kStepBytes + half * kHalfAtomBytes,
                        tables + 2 * s * kTableBytes);
        }
        D2Q_UNROLL
        for (int k = 0; k < kPlanes; ++k) {
          const __m256 r = load_half8(params + k * kRows + half * kHalfRows);
          const __m256 centred = _mm256_fmsub_ps(_mm256_set1_ps(2.0f), dots.dot(k, offset), sum);
          out[half] = _mm256_fmadd_ps(_mm256_mul_ps(r, scale), centred, out[half]);
        }
      }
      step += n_steps * kStepBytes;
      tables += 2 * n_steps * kTableBytes;
    }
  }
  _mm256_storeu_ps(y, out[0]);
  _mm256_storeu_ps(y + kHalfRows, out[1]);
}

}  // namespace

const LookupKernels kLookupKernelsAvx2 = {
    kTableBytes, 1, false, build_tables, {mat_vec<2>, mat_vec<3>}};

}  // namespace d2q
