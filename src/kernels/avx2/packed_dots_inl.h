// Integer dot products of packed codes and activations with AVX2, 8 rows a vector (half a tile).
// Included by files of this folder only.
//
// vpmaddubsw adds two byte products in int16 and saturates, so int16 accumulators hold as many
// column quads as their largest sum allows: code * 128 * 2 a quad, 32767 in all. 2-bit codes and
// planes (value <= 3): 4 steps of 8 quads, 24576; 3-bit codes: 2 steps, 28672; nibbles: 1 step,
// 30720. 6- and 8-bit codes become int16 and take vpmaddwd.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "codec/packed_atoms.h"
#include "kernels/avx2/packed_loads_inl.h"
#include "kernels/packed_kernels.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kHalfAtomBytes = 32;

__m256i broadcast_columns(const int8_t* x) noexcept {
  int32_t four = 0;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

/// Keeps gcc from gathering the additions of several quads at the end of the loop, which spills the
/// products: worth 20 to 40%.
void pin(__m256i& sum) noexcept { asm("" : "+x"(sum)); }

template <PackedFormat kFormat>
constexpr int kFieldOf = kBitsOf<kFormat> == 3   ? 2
                         : kBitsOf<kFormat> == 6 ? 4
                                                 : kBitsOf<kFormat>;

/// The codes, or the planes, of position p of a step's atom, as bytes. `step` points at the half's
/// 32 bytes of the step's first atom. Plane 1 is doubled: its bit is used where it stands.
template <PackedFormat kFormat>
void unpack(const uint8_t* step, int atom, int p, __m256i* values) noexcept {
  constexpr int kBits = kBitsOf<kFormat>;
  constexpr int kField = kFieldOf<kFormat>;
  const int bit = atom * (8 / kField) + p;  // of the third plane
  const __m256i codes = load256(step + atom * kAtomBytes);
  const __m256i field = p == 0 ? codes : _mm256_srli_epi32(codes, p * kField);
  if constexpr (is_sign_planes(kFormat)) {
    values[0] = _mm256_and_si256(field, _mm256_set1_epi8(1));
    values[1] = _mm256_and_si256(field, _mm256_set1_epi8(2));
    if constexpr (kBits == 3) {
      const __m256i third = load256(step + 2 * kAtomBytes);
      const __m256i shifted = bit == 0 ? third : _mm256_srli_epi32(third, bit);
      values[2] = _mm256_and_si256(shifted, _mm256_set1_epi8(1));
    }
  } else if constexpr (kBits == 3 || kBits == 6) {
    // The bits above the field, moved to its upper end.
    const int upper = kBits - kField;
    const __m256i above = load256(step + (kField + bit * upper / 8) * kAtomBytes);
    const int shift = kField - bit * upper % 8;
    const __m256i shifted =
        shift >= 0 ? _mm256_slli_epi32(above, shift) : _mm256_srli_epi32(above, -shift);
    const char upper_mask = static_cast<char>((1 << kBits) - (1 << kField));
    values[0] = _mm256_or_si256(_mm256_and_si256(shifted, _mm256_set1_epi8(upper_mask)),
                                _mm256_and_si256(field, _mm256_set1_epi8((1 << kField) - 1)));
  } else if constexpr (kBits == 8) {
    values[0] = codes;
  } else {
    values[0] = _mm256_and_si256(field, _mm256_set1_epi8((1 << kBits) - 1));
  }
}

/// Integer dot products of one block with kHalves times 8 rows, which share the broadcasts of x.
/// Plane 1 is kept doubled.
template <PackedFormat kFormat, int kTokens, int kDigits, int kHalves>
struct BlockDots {
  static constexpr int kBits = kBitsOf<kFormat>;
  static constexpr int kPlanes = is_sign_planes(kFormat) ? kBits : 1;
  static constexpr int64_t kStepsInInt16 = kBits == 2 || is_sign_planes(kFormat) ? 4
                                           : kBits == 3                          ? 2
                                                                                 : 1;
  __m256i sums[kHalves][kTokens][kDigits][kPlanes];  // int16 pairs while adding steps

  template <typename Visit>
  void for_each_sum(Visit visit) noexcept {
    D2Q_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      D2Q_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        D2Q_UNROLL
        for (int d = 0; d < kDigits; ++d) {
          D2Q_UNROLL
          for (int k = 0; k < kPlanes; ++k) visit(sums[h][t][d][k], h, t, d, k);
        }
      }
    }
  }

  void clear() noexcept {
    for_each_sum([](__m256i& sum, int, int, int, int) { sum = _mm256_setzero_si256(); });
  }

  void add(const __m256i (*values)[3], const QuantizedTokens& x, int64_t column) noexcept {
    D2Q_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      D2Q_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        const int8_t* digits = d == 0 ? x.high : x.low;
        const __m256i four = broadcast_columns(digits + t * x.token_stride + column);
        D2Q_UNROLL
        for (int h = 0; h < kHalves; ++h) {
          D2Q_UNROLL
          for (int k = 0; k < kPlanes; ++k) {
            __m256i& sum = sums[h][t][d][k];
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(values[h][k], four));
            pin(sum);
          }
        }
      }
    }
  }

  /// `step` points at the first half's 32 bytes of the step's first atom.
  void add_step(const uint8_t* step, const QuantizedTokens& x, int64_t column) noexcept {
    constexpr int kField = kFieldOf<kFormat>;
    constexpr int kPositions = 8 / kField;
    D2Q_UNROLL
    for (int atom = 0; atom < kField; ++atom) {
      D2Q_UNROLL
      for (int p = 0; p < kPositions; ++p) {
        __m256i values[kHalves][3];
        D2Q_UNROLL
        for (int h = 0; h < kHalves; ++h)
          unpack<kFormat>(step + h * kHalfAtomBytes, atom, p, values[h]);
        add(values, x, column + 4 * (atom * kPositions + p));
      }
    }
  }

  /// int16 pairs to int32 rows.
  void widen() noexcept {
    for_each_sum([](__m256i& sum, int, int, int, int) {
      sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    });
  }

  void add_block(const uint8_t* step, int64_t n_steps, const QuantizedTokens& x,
                 int64_t column) noexcept {
    clear();
    if (n_steps <= kStepsInInt16) {
      for (int64_t s = 0; s < n_steps; ++s) {
        add_step(step + s * kStepBytesOf<kFormat>, x, column + s * kStepColumns);
      }
      widen();
    } else {
      for (int64_t begin = 0; begin < n_steps; begin += kStepsInInt16) {
        BlockDots part;
        part.clear();
        const int64_t end = begin + kStepsInInt16 < n_steps ? begin + kStepsInInt16 : n_steps;
        for (int64_t s = begin; s < end; ++s) {
          part.add_step(step + s * kStepBytesOf<kFormat>, x, column + s * kStepColumns);
        }
        part.widen();
        for_each_sum([&part](__m256i& sum, int h, int t, int d, int k) {
          sum = _mm256_add_epi32(sum, part.sums[h][t][d][k]);
        });
      }
    }
  }

  __m256 dot(int h, int t, int k) const noexcept {
    __m256i digits[kDigits];
    D2Q_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      digits[d] = sums[h][t][d][k];
    }
    if constexpr (kDigits == 2) {
      digits[0] = _mm256_add_epi32(_mm256_slli_epi32(digits[0], 8), digits[1]);
    }
    return _mm256_cvtepi32_ps(digits[0]);
  }
};

/// The same of 6- and 8-bit codes, whose products with a byte fill int16 at once: codes as int16
/// times 16-bit activations, which takes both digits in one product.
template <PackedFormat kFormat, int kTokens, int kDigits, int kHalves>
struct WordDots {
  __m256i sums[kHalves][kTokens][2];  // rows 0, 1, 4, 5 and 2, 3, 6, 7 of the half, in pairs

  void add_block(const uint8_t* step, int64_t n_steps, const QuantizedTokens& x,
                 int64_t column) noexcept {
    int16_t words[kTokens][kBlockSteps * kStepColumns];
    D2Q_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const int64_t begin = t * x.token_stride + column;
      for (int64_t i = 0; i < n_steps * kStepColumns; i += 16) {
        __m256i q = load_digits(x.high + begin + i);
        if constexpr (kDigits == 2) {
          q = _mm256_add_epi16(_mm256_slli_epi16(q, 8), load_digits(x.low + begin + i));
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words[t] + i), q);
      }
    }
    D2Q_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      D2Q_UNROLL
      for (int t = 0; t < kTokens; ++t) sums[h][t][0] = sums[h][t][1] = _mm256_setzero_si256();
    }
    constexpr int kPositions = 8 / kFieldOf<kFormat>;
    for (int64_t s = 0; s < n_steps; ++s, step += kStepBytesOf<kFormat>) {
      D2Q_UNROLL
      for (int quad = 0; quad < 8; ++quad) {
        D2Q_UNROLL
        for (int h = 0; h < kHalves; ++h) {
          __m256i codes;
          unpack<kFormat>(step + h * kHalfAtomBytes, quad / kPositions, quad % kPositions, &codes);
          const __m256i low = _mm256_unpacklo_epi8(codes, _mm256_setzero_si256());
          const __m256i high = _mm256_unpackhi_epi8(codes, _mm256_setzero_si256());
          D2Q_UNROLL
          for (int t = 0; t < kTokens; ++t) {
            int64_t four = 0;
            __builtin_memcpy(&four, words[t] + s * kStepColumns + 4 * quad, 8);
            __m256i* sum = sums[h][t];
            sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(low, _mm256_set1_epi64x(four)));
            sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(high, _mm256_set1_epi64x(four)));
          }
        }
      }
    }
  }

  __m256 dot(int h, int t, int) const noexcept {
    return _mm256_cvtepi32_ps(_mm256_hadd_epi32(sums[h][t][0], sums[h][t][1]));
  }
};

}  // namespace
}  // namespace d2q
