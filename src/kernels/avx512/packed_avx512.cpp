// The packed kernels with AVX-512 VNNI. Lanes are the 16 rows of a tile, so sums stay in lanes and
// the parameters apply to them without shuffles; x enters as a broadcast dword of four columns.
#include <cstdint>

#include "codec/packed_atoms.h"
#include "kernels/avx512/intrinsics.h"
#include "kernels/packed_kernels.h"
#include "kernels/prefetch.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kRows = 16;

float larger(float a, float b) noexcept { return a < b ? b : a; }

/// The largest Σ |x| / kQuadLevels of a quad.
float largest_quad(const float* x, int64_t n_steps) noexcept {
  const __m512 part = _mm512_set1_ps(1.0f / 65536.0f);  // as in the specification
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < 32 * n_steps; i += 32) {
    __m512 pairs[2];  // of an atom's columns p = 0 and 1, and of 2 and 3; twice, in lanes of four b
    D2Q_UNROLL
    for (int atom = 0; atom < 2; ++atom) {
      const __m512 parts = _mm512_mul_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i + 16 * atom)), part);
      pairs[atom] = _mm512_add_ps(parts, _mm512_shuffle_f32x4(parts, parts, 0xb1));
      const __m512 others = _mm512_shuffle_f32x4(pairs[atom], pairs[atom], 0x4e);
      largest = _mm512_max_ps(largest, _mm512_add_ps(pairs[atom], others));
    }
    largest = _mm512_max_ps(largest, _mm512_add_ps(pairs[0], pairs[1]));
  }
  return _mm512_reduce_max_ps(largest) * (65536.0f / kQuadLevels);
}

void quantize_block(const float* x, int64_t n_steps, int8_t* high, int8_t* low, float* scale,
                    float* sum) noexcept {
  const int64_t n_vectors = n_steps * 2;
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < n_vectors; ++i) {
    const __m512i bits = _mm512_castps_si512(_mm512_loadu_ps(x + 16 * i));
    largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, magnitude));
  }
  const uint32_t largest_bits = _mm512_reduce_max_epu32(largest);
  float max = 0.0f;
  __builtin_memcpy(&max, &largest_bits, 4);
  const bool finite = largest_bits < 0x7f800000u;
  const bool zero = !finite || max < kSmallestActivation;
  float unit = max * (1.0f / (low == nullptr ? kLevels8 : kLevels16));
  if (low != nullptr && !zero) unit = larger(unit, largest_quad(x, n_steps));
  const __m512 inverse = _mm512_set1_ps(zero ? 0.0f : 1.0f / unit);
  const __mmask16 keep = finite ? __mmask16(0xffff) : __mmask16(0);
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < n_vectors; ++i) {
    const __m512i q =
        _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(_mm512_loadu_ps(x + 16 * i), inverse));
    total = _mm512_add_epi32(total, q);
    __m512i h = q;
    if (low != nullptr) {
      h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
      // The low byte of q is q - 256 h already.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(low + 16 * i), _mm512_cvtepi32_epi8(q));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + 16 * i), _mm512_cvtepi32_epi8(h));
  }
  *scale = finite ? (zero ? 0.0f : unit) : __builtin_nanf("");
  *sum = static_cast<float>(_mm512_reduce_add_epi32(total));
}

__m512i byte_mask(int bits) noexcept { return _mm512_set1_epi8(static_cast<char>(bits)); }

/// Lanes shifted left, or right where n is negative.
__m512i shift_left(__m512i lanes, int n) noexcept {
  return n >= 0 ? _mm512_slli_epi32(lanes, static_cast<unsigned>(n))
                : _mm512_srli_epi32(lanes, static_cast<unsigned>(-n));
}

__m512i broadcast_columns(const int8_t* x) noexcept {
  int32_t four = 0;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

__m512 load_half16(const uint16_t* halves) noexcept {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

/// Integer dot products of one block, for kTokens tokens and kDigits digits of x. Plane 1 is kept
/// doubled: its bit is used where it stands, as the value 2. Atoms take turns on kChains sums,
/// since vpdpbusd has a latency of 4 to 5 cycles and one or two start each cycle.
///
/// Fields of 1 or 2 or 4 bits stay where they stand in their byte and only lose the other fields:
/// vpdpbusd takes 4^p times the code as well as the code. All atoms pass once for each position p,
/// the highest first, and the sums are shifted down between passes, which is exact: the next
/// position's multiples follow on theirs. That spares a shift of the codes for every position. One
/// or two positions keep sums of their own instead, shifted at the end, so that lines are read at
/// an even pace.
template <PackedFormat kFormat, int kTokens, int kDigits>
struct BlockDots {
  static constexpr int kBits = kBitsOf<kFormat>;
  static constexpr int kField = kBits == 3 ? 2 : kBits == 6 ? 4 : kBits;
  static constexpr int kAtoms = kField;          // atoms of 2-, 4- or 8-bit fields a step
  static constexpr int kPositions = 8 / kField;  // fields of a byte
  static constexpr int kPlanes = is_sign_planes(kFormat) ? kBits : 1;
  static constexpr int kSums = kTokens * kDigits * kPlanes;
  static constexpr int kChains = kSums <= 2 ? 4 : kSums <= 6 ? 2 : 1;
  static constexpr bool kInPlace = kFormat != kUniform3 && kFormat != kUniform6;
  static constexpr bool kOnePass = kPositions <= 2 && kPositions <= kChains;
  __m512i sums[kChains][kTokens][kDigits][kPlanes];

  template <typename Visit>
  void for_each_sum(Visit visit) noexcept {
    D2Q_UNROLL
    for (int c = 0; c < kChains; ++c) {
      D2Q_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        D2Q_UNROLL
        for (int d = 0; d < kDigits; ++d) {
          D2Q_UNROLL
          for (int k = 0; k < kPlanes; ++k) visit(sums[c][t][d][k], c);
        }
      }
    }
  }

  /// values[k]: unsigned bytes, four columns a lane; `column` of the block: the first of the four.
  void add(int chain, const __m512i* values, const QuantizedTokens& x, int64_t column) noexcept {
    D2Q_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      D2Q_UNROLL
      for (int d = 0; d < kDigits; ++d) {
        const int8_t* digits = d == 0 ? x.high : x.low;
        const __m512i four = broadcast_columns(digits + t * x.token_stride + column);
        D2Q_UNROLL
        for (int k = 0; k < kPlanes; ++k) {
          sums[chain][t][d][k] = _mm512_dpbusd_epi32(sums[chain][t][d][k], values[k], four);
        }
      }
    }
  }

  void add_atom(const uint8_t* step, int atom, int position, int chain, const QuantizedTokens& x,
                int64_t column) noexcept {
    const __m512i codes = _mm512_loadu_si512(step + atom * kAtomBytes);
    const int bit = atom * kPositions + position;  // of the third plane
    const int shift = position * kField;
    __m512i values[3];
    if constexpr (is_sign_planes(kFormat)) {
      values[0] = _mm512_and_si512(codes, byte_mask(1 << shift));
      values[1] = _mm512_and_si512(codes, byte_mask(2 << shift));
      if constexpr (kBits == 3) {
        const __m512i third = _mm512_loadu_si512(step + 2 * kAtomBytes);
        const __m512i aligned = shift_left(third, shift - bit);
        values[2] = _mm512_and_si512(aligned, byte_mask(1 << shift));
      }
    } else if constexpr (kBits == 3) {
      const __m512i third = _mm512_loadu_si512(step + 2 * kAtomBytes);
      const __m512i high_bit = _mm512_and_si512(shift_left(third, 2 - bit), byte_mask(4));
      const __m512i field = _mm512_srli_epi32(codes, static_cast<unsigned>(shift));
      values[0] = _mm512_ternarylogic_epi32(high_bit, field, byte_mask(3), 0xf8);
    } else if constexpr (kBits == 6) {
      const __m512i top = _mm512_loadu_si512(step + (4 + bit / 4) * kAtomBytes);
      const __m512i top_bits = _mm512_and_si512(shift_left(top, 4 - bit % 4 * 2), byte_mask(0x30));
      const __m512i field = _mm512_srli_epi32(codes, static_cast<unsigned>(shift));
      values[0] = _mm512_ternarylogic_epi32(top_bits, field, byte_mask(15), 0xf8);
    } else if constexpr (kBits == 8) {
      values[0] = codes;
    } else {
      values[0] = _mm512_and_si512(codes, byte_mask(((1 << kBits) - 1) << shift));
    }
    add(chain, values, x, column + 4 * bit);
  }

  void add_in_one_pass(const uint8_t* step, int64_t n_steps, const QuantizedTokens& x,
                       int64_t column) noexcept {
    constexpr int kTurns = kChains / kPositions;
    for (int64_t s = 0; s < n_steps; ++s, step += kStepBytesOf<kFormat>, column += kStepColumns) {
      D2Q_UNROLL
      for (int atom = 0; atom < kAtoms; ++atom) {
        D2Q_UNROLL
        for (int position = 0; position < kPositions; ++position) {
          add_atom(step, atom, position, position * kTurns + atom % kTurns, x, column);
        }
      }
    }
    if constexpr (kInPlace && kPositions == 2) {
      for_each_sum([](__m512i& sum, int chain) {
        if (chain >= kTurns) sum = _mm512_srai_epi32(sum, kField);
      });
    }
  }

  /// kSteps steps from `column` on; 0 means n_steps.
  template <int kSteps>
  void add_block(const uint8_t* step, int64_t n_steps, const QuantizedTokens& x,
                 int64_t column) noexcept {
    for_each_sum([](__m512i& sum, int) { sum = _mm512_setzero_si512(); });
    if constexpr (kOnePass) return add_in_one_pass(step, n_steps, x, column);
    D2Q_UNROLL
    for (int position = kPositions - 1; position >= 0; --position) {
      if (kInPlace && position != kPositions - 1) {
        for_each_sum([](__m512i& sum, int) { sum = _mm512_srai_epi32(sum, kField); });
      }
      if constexpr (kSteps != 0) {
        D2Q_UNROLL
        for (int s = 0; s < kSteps; ++s) {
          D2Q_UNROLL
          for (int atom = 0; atom < kAtoms; ++atom) {
            add_atom(step + s * kStepBytesOf<kFormat>, atom, position,
                     (s * kAtoms + atom) % kChains, x, column + s * kStepColumns);
          }
        }
      } else {
        for (int64_t s = 0; s < n_steps; ++s) {
          D2Q_UNROLL
          for (int atom = 0; atom < kAtoms; ++atom) {
            add_atom(step + s * kStepBytesOf<kFormat>, atom, position, atom % kChains, x,
                     column + s * kStepColumns);
          }
        }
      }
    }
  }

  __m512 dot(int t, int k) const noexcept {
    __m512i total[kDigits];
    D2Q_UNROLL
    for (int d = 0; d < kDigits; ++d) {
      total[d] = sums[0][t][d][k];
      D2Q_UNROLL
      for (int c = 1; c < kChains; ++c) total[d] = _mm512_add_epi32(total[d], sums[c][t][d][k]);
    }
    if constexpr (kDigits == 2) {
      total[0] = _mm512_add_epi32(_mm512_slli_epi32(total[0], 8), total[1]);
    }
    return _mm512_cvtepi32_ps(total[0]);
  }
};

template <PackedFormat kFormat, int kTokens, int kDigits>
void mat_vec_tokens(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = kStepBytesOf<kFormat>;
  constexpr int kParams = n_params_of(kFormat);
  // A line of these takes so few instructions that a core's loads are far ahead already: prefetches
  // only compete for its miss buffers.
  constexpr bool kPrefetch = kFormat != kUniform8 || kTokens > 1;
  const uint8_t* step = tile.codes;
  int64_t column = 0;
  int64_t block = 0;
  __m512 out[kTokens];
  D2Q_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t] = _mm512_setzero_ps();
  for (int64_t group = 0; group < tile.n_groups; ++group) {
    const uint16_t* scales = tile.scales + group * kParams * kRows;
    D2Q_PREFETCH_SCALES(scales, kParams * kRows);
    int64_t left = group + 1 == tile.n_groups ? tile.last_group_steps : tile.group_steps;
    for (; left > 0; ++block) {
      const int64_t n_steps = left < kBlockSteps ? left : kBlockSteps;
      left -= n_steps;
      BlockDots<kFormat, kTokens, kDigits> dots;
      if (n_steps == kBlockSteps) {
        if constexpr (kPrefetch) D2Q_PREFETCH(step, kBlockSteps * kStepBytes);
        dots.template add_block<kBlockSteps>(step, n_steps, x, column);
      } else {
        if constexpr (kPrefetch) D2Q_PREFETCH(step, n_steps * kStepBytes);
        dots.template add_block<0>(step, n_steps, x, column);
      }
      step += n_steps * kStepBytes;
      column += n_steps * kStepColumns;
      __m512 params[kParams];
      D2Q_UNROLL
      for (int k = 0; k < kParams; ++k) params[k] = load_half16(scales + k * kRows);
      D2Q_UNROLL
      for (int t = 0; t < kTokens; ++t) {
        const __m512 scale = _mm512_set1_ps(x.scale[t * x.block_stride + block]);
        const __m512 sum = _mm512_set1_ps(x.sum[t * x.block_stride + block]);
        if constexpr (is_sign_planes(kFormat)) {
          D2Q_UNROLL
          for (int k = 0; k < kParams; ++k) {
            const __m512 dot = dots.dot(t, k);
            // Plane 1 is doubled already.
            const __m512 centred =
                k == 1 ? _mm512_sub_ps(dot, sum) : _mm512_fmsub_ps(_mm512_set1_ps(2.0f), dot, sum);
            out[t] = _mm512_fmadd_ps(_mm512_mul_ps(params[k], scale), centred, out[t]);
          }
        } else {
          const __m512 centred = _mm512_fnmadd_ps(params[1], sum, dots.dot(t, 0));
          out[t] = _mm512_fmadd_ps(_mm512_mul_ps(params[0], scale), centred, out[t]);
        }
      }
    }
  }
  D2Q_UNROLL
  for (int t = 0; t < kTokens; ++t) _mm512_storeu_ps(y + t * kRows, out[t]);
}

template <PackedFormat kFormat, int kDigits>
void mat_vec_digits(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  switch (x.n_tokens) {
    case 1:
      return mat_vec_tokens<kFormat, 1, kDigits>(tile, x, y);
    case 2:
      return mat_vec_tokens<kFormat, 2, kDigits>(tile, x, y);
    case 3:
      return mat_vec_tokens<kFormat, 3, kDigits>(tile, x, y);
    default:
      return mat_vec_tokens<kFormat, 4, kDigits>(tile, x, y);
  }
}

template <PackedFormat kFormat>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  if (x.low == nullptr) return mat_vec_digits<kFormat, 1>(tile, x, y);
  return mat_vec_digits<kFormat, 2>(tile, x, y);
}

/// f32 bits rounded to bf16 in the low halves, nearest even; NaN becomes a quiet NaN.
__m512i round_to_bf16(__m512 value) noexcept {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i top = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40));
}

float half_to_float(uint16_t half) noexcept { return _cvtsh_ss(half); }

int32_t load_dword(const uint8_t* bytes) noexcept {
  int32_t dword = 0;
  __builtin_memcpy(&dword, bytes, 4);
  return dword;
}

/// What the codes 0, 1, 2, ... of a row stand for, repeated to 16 lanes (formats of at most 4
/// bits).
template <PackedFormat kFormat>
__m512 level_table(const uint16_t* row_scales) noexcept {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  if constexpr (is_sign_planes(kFormat)) {
    constexpr int kPlanes = kBitsOf<kFormat>;
    __m512 sum = _mm512_setzero_ps();
    D2Q_UNROLL
    for (int k = 0; k < kPlanes; ++k) {
      const __m512 r = _mm512_set1_ps(half_to_float(row_scales[k * kRows]));
      const __mmask16 set = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(1 << k));
      const __m512 negative = _mm512_xor_ps(r, _mm512_set1_ps(-0.0f));
      const __m512 term = _mm512_mask_blend_ps(set, negative, r);
      sum = k == 0 ? term : _mm512_add_ps(sum, term);
    }
    return sum;
  } else {
    const __m512 code =
        _mm512_cvtepi32_ps(_mm512_and_si512(lane, _mm512_set1_epi32((1 << kBitsOf<kFormat>)-1)));
    const __m512 zero = _mm512_set1_ps(half_to_float(row_scales[kRows]));
    return _mm512_mul_ps(_mm512_set1_ps(half_to_float(row_scales[0])), _mm512_sub_ps(code, zero));
  }
}

/// The codes of 16 columns of one row, in 32-bit lanes; bits above the code are arbitrary up to the
/// lane's bit 4, where the level table's lookup stops reading. `half` is 0 or 1 within the step.
template <PackedFormat kFormat>
__m512i row_codes(const uint8_t* step, int64_t row, int half) noexcept {
  constexpr int kBits = kBitsOf<kFormat>;
  const uint8_t* base = step + 4 * row;
  if constexpr (kBits == 8) {
    const uint8_t* atom = base + half * 4 * kAtomBytes;
    return _mm512_cvtepu8_epi32(_mm_set_epi32(load_dword(atom + 3 * kAtomBytes),
                                              load_dword(atom + 2 * kAtomBytes),
                                              load_dword(atom + kAtomBytes), load_dword(atom)));
  } else if constexpr (kBits == 4 || kBits == 6) {
    const uint8_t* atom = base + half * 2 * kAtomBytes;
    const __m512i dwords = _mm512_mask_set1_epi32(_mm512_set1_epi32(load_dword(atom)), 0xff00,
                                                  load_dword(atom + kAtomBytes));
    const __m512i shifts =
        _mm512_set_epi32(28, 20, 12, 4, 24, 16, 8, 0, 28, 20, 12, 4, 24, 16, 8, 0);
    const __m512i low = _mm512_srlv_epi32(dwords, shifts);
    if constexpr (kBits == 4) return low;
    const __m512i top = _mm512_and_si512(row_codes<kUniform2>(step + 4 * kAtomBytes, row, half),
                                         _mm512_set1_epi32(3));
    return _mm512_ternarylogic_epi32(_mm512_slli_epi32(top, 4), low, _mm512_set1_epi32(15), 0xf8);
  } else {
    const __m512i shifts =
        _mm512_set_epi32(30, 22, 14, 6, 28, 20, 12, 4, 26, 18, 10, 2, 24, 16, 8, 0);
    const __m512i dword = _mm512_set1_epi32(load_dword(base + half * kAtomBytes));
    const __m512i low = _mm512_srlv_epi32(dword, shifts);
    if constexpr (kBits == 2) return low;
    // The third bit of column 4p + b is bit 8b + p of its atom's dword: rotated to bit 2.
    const __m512i rotations =
        _mm512_set_epi32(25, 17, 9, 1, 24, 16, 8, 0, 23, 15, 7, 31, 22, 14, 6, 30);
    const __m512i offset = _mm512_add_epi32(rotations, _mm512_set1_epi32(half == 0 ? 0 : 4));
    const __m512i third = _mm512_set1_epi32(load_dword(base + 2 * kAtomBytes));
    const __m512i high = _mm512_and_si512(_mm512_rorv_epi32(third, offset), _mm512_set1_epi32(4));
    return _mm512_ternarylogic_epi32(high, low, _mm512_set1_epi32(3), 0xf8);
  }
}

void store_row(float* out, __m512 weights) noexcept { _mm512_storeu_ps(out, weights); }

void store_row(uint16_t* out, __m512i bf16) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(bf16));
}

template <PackedFormat kFormat, typename Out>
void dequantize(const uint8_t* codes, const uint16_t* scales, int64_t n_steps, Out* out,
                int64_t row_stride) noexcept {
  constexpr bool kToBf16 = sizeof(Out) == 2;
  for (int64_t row = 0; row < kRows; ++row) {
    Out* target = out + row * row_stride;
    if constexpr (kBitsOf<kFormat> >= 6) {
      const __m512 scale = _mm512_set1_ps(half_to_float(scales[row]));
      const __m512 zero = _mm512_set1_ps(half_to_float(scales[kRows + row]));
      for (int64_t s = 0; s < n_steps; ++s) {
        for (int half = 0; half < 2; ++half) {
          const __m512i code = row_codes<kFormat>(codes + s * kStepBytesOf<kFormat>, row, half);
          const __m512 weights =
              _mm512_mul_ps(scale, _mm512_sub_ps(_mm512_cvtepi32_ps(code), zero));
          if constexpr (kToBf16)
            store_row(target + 32 * s + 16 * half, round_to_bf16(weights));
          else
            store_row(target + 32 * s + 16 * half, weights);
        }
      }
    } else {
      const __m512 levels = level_table<kFormat>(scales + row);
      const __m512i rounded = round_to_bf16(levels);
      for (int64_t s = 0; s < n_steps; ++s) {
        const uint8_t* step = codes + s * kStepBytesOf<kFormat>;
        D2Q_UNROLL
        for (int half = 0; half < 2; ++half) {
          const __m512i code = row_codes<kFormat>(step, row, half);
          Out* columns = target + 32 * s + 16 * half;
          if constexpr (kToBf16)
            store_row(columns, _mm512_permutexvar_epi32(code, rounded));
          else
            store_row(columns, _mm512_permutexvar_ps(code, levels));
        }
      }
    }
  }
}

}  // namespace

const PackedKernels kPackedKernelsAvx512 = {
    "avx512",
    quantize_block,
    {mat_vec<kUniform2>, mat_vec<kUniform3>, mat_vec<kUniform4>, mat_vec<kUniform6>,
     mat_vec<kUniform8>, mat_vec<kSignPlanes2>, mat_vec<kSignPlanes3>},
    {dequantize<kUniform2, float>, dequantize<kUniform3, float>, dequantize<kUniform4, float>,
     dequantize<kUniform6, float>, dequantize<kUniform8, float>, dequantize<kSignPlanes2, float>,
     dequantize<kSignPlanes3, float>},
    {dequantize<kUniform2, uint16_t>, dequantize<kUniform3, uint16_t>,
     dequantize<kUniform4, uint16_t>, dequantize<kUniform6, uint16_t>,
     dequantize<kUniform8, uint16_t>, dequantize<kSignPlanes2, uint16_t>,
     dequantize<kSignPlanes3, uint16_t>}};

}  // namespace d2q
