// Sign planes with AVX-512 VBMI and GFNI: sums looked up instead of multiplied.
//
// A 16-bit activation takes two byte products for every plane, and the planes of a four-column quad
// pay for each alone: 16 vpdpbusd for the 64 bytes of an atom of two planes. But a plane's bits of
// a quad, four columns that share a byte of the codes, have only 16 different sums, and the four
// bytes b of a dword have a table of 16 sums each: 64 entries, one vpermb. Without their smallest
// the sums have 16 bits, so there are two tables of bytes, and vpdpbusd with ones adds the four
// bytes' sums to their row. That is 4 lookups and 4 additions an atom instead of 16 products, with
// the same integers.
#include <cstdint>

#include "codec/packed_atoms.h"
#include "kernels/avx512/intrinsics.h"
#include "kernels/packed_kernels.h"
#include "kernels/prefetch.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kRows = 16;
constexpr int kTables = 2;                     // bytes of a sum: low, high
constexpr int64_t kTableBytes = 64 * kTables;  // of an atom

/// Bit matrices for gf2p8affineqb that gather four bits of each byte in its low half.
constexpr long long kEvenBits = 0x0104104000000000;
constexpr long long kOddBits = 0x0208208000000000;
constexpr long long kLowBits = 0x0102040800000000;
constexpr long long kHighBits = 0x1020408000000000;

int32_t build_tables(const int8_t* high, const int8_t* low, int64_t n_steps, int /*n_planes*/,
                     uint8_t* tables) noexcept {
  constexpr __mmask16 kSubsetsWith[4] = {0xaaaa, 0xcccc, 0xf0f0, 0xff00};
  int32_t offset = 0;
  for (int64_t atom = 0; atom < 2 * n_steps; ++atom) {
    for (int b = 0; b < 4; ++b) {
      // The sums of every subset of the columns 4p + b (p = 0 to 3), subset n in lane n.
      __m512i sums = _mm512_setzero_si512();
      int32_t smallest = 0;
      D2Q_UNROLL
      for (int p = 0; p < 4; ++p) {
        const int64_t column = 16 * atom + 4 * p + b;
        const int32_t q = low == nullptr ? high[column] : 256 * high[column] + low[column];
        sums = _mm512_mask_add_epi32(sums, kSubsetsWith[p], sums, _mm512_set1_epi32(q));
        smallest += q < 0 ? q : 0;
      }
      sums = _mm512_sub_epi32(sums, _mm512_set1_epi32(smallest));
      offset -= smallest;
      uint8_t* out = tables + atom * kTableBytes + 16 * b;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(sums));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 64),
                       _mm512_cvtepi32_epi8(_mm512_srli_epi32(sums, 8)));
    }
  }
  return offset;
}

__m512 load_half16(const uint16_t* halves) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

/// Keeps a table in its register: the compiler would rather load it for every lookup.
void pin(__m512i& table) noexcept { asm("" : "+v"(table)); }

/// The sums of one block, each table's bytes alone.
template <int kPlanes>
struct LookedUpDots {
  __m512i sums[kPlanes][kTables];

  LookedUpDots() noexcept {
    D2Q_UNROLL
    for (int k = 0; k < kPlanes; ++k) sums[k][0] = sums[k][1] = _mm512_setzero_si512();
  }

  void add_step(const uint8_t* step, const uint8_t* tables) noexcept {
    const __m512i ones = _mm512_set1_epi8(1);
    const __m512i byte_tables = _mm512_set1_epi32(0x30201000);
    D2Q_UNROLL
    for (int atom = 0; atom < 2; ++atom) {
      __m512i table[kTables];
      D2Q_UNROLL
      for (int i = 0; i < kTables; ++i) {
        table[i] = _mm512_loadu_si512(tables + atom * kTableBytes + 64 * i);
        pin(table[i]);
      }
      __m512i planes01 = _mm512_loadu_si512(step + atom * kAtomBytes);
      pin(planes01);
      D2Q_UNROLL
      for (int k = 0; k < kPlanes; ++k) {
        const __m512i bits = k < 2 ? planes01 : _mm512_loadu_si512(step + 2 * kAtomBytes);
        const long long gather = k == 0      ? kEvenBits
                                 : k == 1    ? kOddBits
                                 : atom == 0 ? kLowBits
                                             : kHighBits;
        const __m512i subset = _mm512_gf2p8affine_epi64_epi8(bits, _mm512_set1_epi64(gather), 0);
        const __m512i index = _mm512_or_si512(subset, byte_tables);
        D2Q_UNROLL
        for (int i = 0; i < kTables; ++i) {
          sums[k][i] =
              _mm512_dpbusd_epi32(sums[k][i], _mm512_permutexvar_epi8(index, table[i]), ones);
        }
      }
    }
  }

  __m512 dot(int k) const noexcept {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums[k][1], 8), sums[k][0]));
  }
};

template <int kPlanes>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = step_bytes(kPlanes);
  const uint8_t* step = tile.codes;
  const uint8_t* tables = x.tables;
  int64_t block = 0;
  __m512 out = _mm512_setzero_ps();
  for (int64_t group = 0; group < tile.n_groups; ++group) {
    const uint16_t* params = tile.scales + group * kPlanes * kRows;
    D2Q_PREFETCH_SCALES(params, kPlanes * kRows);
    int64_t left = group + 1 == tile.n_groups ? tile.last_group_steps : tile.group_steps;
    for (; left > 0; left -= kBlockSteps, ++block) {
      const int64_t n_steps = left < kBlockSteps ? left : kBlockSteps;
      LookedUpDots<kPlanes> dots;
      for (int64_t s = 0; s < n_steps; ++s) {
        D2Q_PREFETCH(step, kStepBytes);
        dots.add_step(step, tables);
        step += kStepBytes;
        tables += 2 * kTableBytes;
      }
      const __m512 scale = _mm512_set1_ps(x.scale[block]);
      const __m512 offset = _mm512_set1_ps(x.table_offset[block]);
      D2Q_UNROLL
      for (int k = 0; k < kPlanes; ++k) {
        const __m512 r = load_half16(params + k * kRows);
        const __m512 centred = _mm512_fmsub_ps(_mm512_set1_ps(2.0f), dots.dot(k), offset);
        out = _mm512_fmadd_ps(_mm512_mul_ps(r, scale), centred, out);
      }
    }
  }
  _mm512_storeu_ps(y, out);
}

}  // namespace

const LookupKernels kLookupKernelsAvx512Vbmi = {
    {2 * kTableBytes, 2 * kTableBytes}, 4, true, build_tables, {mat_vec<2>, mat_vec<3>}};

}  // namespace d2q
