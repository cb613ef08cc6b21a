// The packed kernels with AVX2: vpmaddubsw and vpmaddwd instead of vpdpbusd.
#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "codec/packed_atoms.h"
#include "kernels/avx2/packed_dots_inl.h"
#include "kernels/avx2/packed_loads_inl.h"
#include "kernels/packed_kernels.h"
#include "kernels/prefetch.h"
#include "kernels/unroll.h"

namespace d2q {
namespace {

constexpr int64_t kRows = 16;
constexpr int64_t kHalfRows = 8;

int32_t sum_lanes(__m256i lanes) noexcept {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

uint32_t largest_lane(__m256i lanes) noexcept {
  __m128i max = _mm_max_epu32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0x4e));
  max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(max));
}

/// Eight int32 that fit in int8.
void store_digits(int8_t* out, __m256i values) noexcept {
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(words, words));
}

float larger(float a, float b) noexcept { return a < b ? b : a; }

/// The largest Σ |x| / kQuadLevels of a quad.
float largest_quad(const float* x, int64_t n_steps) noexcept {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 part = _mm256_set1_ps(1.0f / 65536.0f);  // as in the specification
  __m128 largest = _mm_setzero_ps();
  for (int64_t i = 0; i < 32 * n_steps; i += 32) {
    __m128 pairs[4];  // of columns p and p + 1, lanes b
    D2Q_UNROLL
    for (int p = 0; p < 4; ++p) {
      const __m256 columns = _mm256_and_ps(_mm256_loadu_ps(x + i + 8 * p), magnitude);
      const __m256 parts = _mm256_mul_ps(columns, part);
      pairs[p] = _mm_add_ps(_mm256_castps256_ps128(parts), _mm256_extractf128_ps(parts, 1));
    }
    const __m128 atoms = _mm_max_ps(_mm_add_ps(pairs[0], pairs[1]), _mm_add_ps(pairs[2], pairs[3]));
    const __m128 both = _mm_max_ps(_mm_add_ps(pairs[0], pairs[2]), _mm_add_ps(pairs[1], pairs[3]));
    largest = _mm_max_ps(largest, _mm_max_ps(atoms, both));
  }
  largest = _mm_max_ps(largest, _mm_movehl_ps(largest, largest));
  largest = _mm_max_ss(largest, _mm_shuffle_ps(largest, largest, 1));
  return _mm_cvtss_f32(largest) * (65536.0f / kQuadLevels);
}

void quantize_block(const float* x, int64_t n_steps, int8_t* high, int8_t* low, float* scale,
                    float* sum) noexcept {
  const int64_t n_vectors = n_steps * 4;
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  for (int64_t i = 0; i < n_vectors; ++i) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + 8 * i));
    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, magnitude));
  }
  const uint32_t largest_bits = largest_lane(largest);
  float max = 0.0f;
  __builtin_memcpy(&max, &largest_bits, 4);
  const bool finite = largest_bits < 0x7f800000u;
  const bool zero = !finite || max < kSmallestActivation;
  float unit = max * (1.0f / (low == nullptr ? kLevels8 : kLevels16));
  if (low != nullptr && !zero) unit = larger(unit, largest_quad(x, n_steps));
  const __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 1.0f / unit);
  const __m256i keep = _mm256_set1_epi32(finite ? -1 : 0);
  __m256i total = _mm256_setzero_si256();
  for (int64_t i = 0; i < n_vectors; ++i) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse);
    const __m256i q = _mm256_and_si256(_mm256_cvtps_epi32(scaled), keep);
    total = _mm256_add_epi32(total, q);
    __m256i h = q;
    if (low != nullptr) {
      h = _mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(128)), 8);
      store_digits(low + 8 * i, _mm256_sub_epi32(q, _mm256_slli_epi32(h, 8)));
    }
    store_digits(high + 8 * i, h);
  }
  *scale = finite ? (zero ? 0.0f : unit) : __builtin_nanf("");
  *sum = static_cast<float>(sum_lanes(total));
}

template <PackedFormat kFormat, int kTokens, int kDigits>
void mat_vec_tokens(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = kStepBytesOf<kFormat>;
  constexpr int kParams = n_params_of(kFormat);
  constexpr bool kWords = kBitsOf<kFormat> >= 6;
  // As many rows at once as keep their sums in the 16 registers.
  constexpr int kSums = kTokens * (kWords ? 2 : kDigits * BlockDots<kFormat, 1, 1, 1>::kPlanes);
  constexpr int kHalves = kSums <= 4 ? 2 : 1;
  using Dots = std::conditional_t<kWords, WordDots<kFormat, kTokens, kDigits, kHalves>,
                                  BlockDots<kFormat, kTokens, kDigits, kHalves>>;
  const uint8_t* step = tile.codes;
  int64_t column = 0;
  int64_t block = 0;
  __m256 out[kTokens][2];
  D2Q_UNROLL
  for (int t = 0; t < kTokens; ++t) out[t][0] = out[t][1] = _mm256_setzero_ps();
  for (int64_t group = 0; group < tile.n_groups; ++group) {
    const uint16_t* scales = tile.scales + group * kParams * kRows;
    D2Q_PREFETCH_SCALES(scales, kParams * kRows);
    int64_t left = group + 1 == tile.n_groups ? tile.last_group_steps : tile.group_steps;
    for (; left > 0; ++block) {
      const int64_t n_steps = left < kBlockSteps ? left : kBlockSteps;
      left -= n_steps;
      D2Q_PREFETCH(step, n_steps * kStepBytes);
      D2Q_UNROLL
      for (int first = 0; first < 2; first += kHalves) {
        Dots dots;
        dots.add_block(step + first * kHalfAtomBytes, n_steps, x, column);
        D2Q_UNROLL
        for (int h = 0; h < kHalves; ++h) {
          const int half = first + h;
          __m256 params[kParams];
          D2Q_UNROLL
          for (int k = 0; k < kParams; ++k) {
            params[k] = load_half8(scales + k * kRows + half * kHalfRows);
          }
          D2Q_UNROLL
          for (int t = 0; t < kTokens; ++t) {
            const __m256 scale = _mm256_set1_ps(x.scale[t * x.block_stride + block]);
            const __m256 sum = _mm256_set1_ps(x.sum[t * x.block_stride + block]);
            if constexpr (is_sign_planes(kFormat)) {
              D2Q_UNROLL
              for (int k = 0; k < kParams; ++k) {
                const __m256 dot = dots.dot(h, t, k);
                // Plane 1 is doubled already.
                const __m256 centred = k == 1 ? _mm256_sub_ps(dot, sum)
                                              : _mm256_fmsub_ps(_mm256_set1_ps(2.0f), dot, sum);
                out[t][half] =
                    _mm256_fmadd_ps(_mm256_mul_ps(params[k], scale), centred, out[t][half]);
              }
            } else {
              const __m256 centred = _mm256_fnmadd_ps(params[1], sum, dots.dot(h, t, 0));
              out[t][half] =
                  _mm256_fmadd_ps(_mm256_mul_ps(params[0], scale), centred, out[t][half]);
            }
          }
        }
      }
      step += n_steps * kStepBytes;
      column += n_steps * kStepColumns;
    }
  }
  D2Q_UNROLL
  for (int t = 0; t < kTokens; ++t) {
    _mm256_storeu_ps(y + t * kRows, out[t][0]);
    _mm256_storeu_ps(y + t * kRows + kHalfRows, out[t][1]);
  }
}

/// Two tokens at a time: more would spill the 16 registers.
template <PackedFormat kFormat, int kDigits>
void mat_vec_digits(QuantizedTokens x, const PackedTile& tile, float* y) noexcept {
  for (; x.n_tokens >= 2; x.n_tokens -= 2) {
    mat_vec_tokens<kFormat, 2, kDigits>(tile, x, y);
    x.high += 2 * x.token_stride;
    if (kDigits == 2) x.low += 2 * x.token_stride;
    x.scale += 2 * x.block_stride;
    x.sum += 2 * x.block_stride;
    y += 2 * kRows;
  }
  if (x.n_tokens == 1) mat_vec_tokens<kFormat, 1, kDigits>(tile, x, y);
}

template <PackedFormat kFormat>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  if (x.low == nullptr) return mat_vec_digits<kFormat, 1>(x, tile, y);
  mat_vec_digits<kFormat, 2>(x, tile, y);
}

/// f32 bits rounded to bf16 in the low halves, nearest even; NaN becomes a quiet NaN.
__m256i round_to_bf16(__m256 value) noexcept {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i top = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
}

int32_t load_dword(const uint8_t* bytes) noexcept {
  int32_t dword = 0;
  __builtin_memcpy(&dword, bytes, 4);
  return dword;
}

/// The codes of 8 columns of one row in 32-bit lanes, columns 8 * part to 8 * part + 7 of the step.
template <PackedFormat kFormat>
__m256i row_codes(const uint8_t* step, int64_t row, int part) noexcept {
  constexpr int kBits = kBitsOf<kFormat>;
  const uint8_t* base = step + 4 * row;
  if constexpr (kBits == 8) {
    const uint8_t* atom = base + part * 2 * kAtomBytes;
    return _mm256_cvtepu8_epi32(
        _mm_set_epi32(0, 0, load_dword(atom + kAtomBytes), load_dword(atom)));
  } else if constexpr (kBits == 4 || kBits == 6) {
    const __m256i dword = _mm256_set1_epi32(load_dword(base + part * kAtomBytes));
    const __m256i codes = _mm256_srlv_epi32(dword, _mm256_set_epi32(28, 20, 12, 4, 24, 16, 8, 0));
    const __m256i low = _mm256_and_si256(codes, _mm256_set1_epi32(15));
    if constexpr (kBits == 4) return low;
    const __m256i top = row_codes<kUniform2>(step + 4 * kAtomBytes, row, part);
    return _mm256_or_si256(low, _mm256_slli_epi32(top, 4));
  } else {
    const __m256i dword = _mm256_set1_epi32(load_dword(base + part / 2 * kAtomBytes));
    const __m256i shifts = _mm256_add_epi32(_mm256_set_epi32(26, 18, 10, 2, 24, 16, 8, 0),
                                            _mm256_set1_epi32(part % 2 * 4));
    const __m256i low = _mm256_and_si256(_mm256_srlv_epi32(dword, shifts), _mm256_set1_epi32(3));
    if constexpr (kBits == 2) return low;
    const __m256i third = _mm256_set1_epi32(load_dword(base + 2 * kAtomBytes));
    const __m256i places =
        _mm256_add_epi32(_mm256_set_epi32(25, 17, 9, 1, 24, 16, 8, 0), _mm256_set1_epi32(part * 2));
    const __m256i high = _mm256_and_si256(_mm256_srlv_epi32(third, places), _mm256_set1_epi32(1));
    return _mm256_or_si256(low, _mm256_slli_epi32(high, 2));
  }
}

/// What the codes 0 to 7 of a row of sign planes stand for.
template <PackedFormat kFormat>
__m256 level_table(const uint16_t* row_scales) noexcept {
  const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  constexpr int kPlanes = kBitsOf<kFormat>;
  __m256 sum = _mm256_setzero_ps();
  D2Q_UNROLL
  for (int k = 0; k < kPlanes; ++k) {
    const __m256 r = _mm256_set1_ps(_cvtsh_ss(row_scales[k * kRows]));
    const __m256i set = _mm256_slli_epi32(lane, 31 - k);  // the bit, as a sign
    const __m256 negative = _mm256_xor_ps(r, _mm256_set1_ps(-0.0f));
    const __m256 term = _mm256_blendv_ps(negative, r, _mm256_castsi256_ps(set));
    sum = k == 0 ? term : _mm256_add_ps(sum, term);
  }
  return sum;
}

void store_row(float* out, const __m256* weights) noexcept {
  _mm256_storeu_ps(out, weights[0]);
  _mm256_storeu_ps(out + 8, weights[1]);
}

void store_row(uint16_t* out, const __m256* weights) noexcept {
  const __m256i packed = _mm256_packus_epi32(round_to_bf16(weights[0]), round_to_bf16(weights[1]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(packed, 0xd8));
}

template <PackedFormat kFormat, typename Out>
void dequantize(const uint8_t* codes, const uint16_t* scales, int64_t n_steps, Out* out,
                int64_t row_stride) noexcept {
  for (int64_t row = 0; row < kRows; ++row) {
    __m256 levels = _mm256_setzero_ps();
    if constexpr (is_sign_planes(kFormat)) levels = level_table<kFormat>(scales + row);
    const __m256 scale = _mm256_set1_ps(_cvtsh_ss(scales[row]));
    const __m256 zero = _mm256_set1_ps(_cvtsh_ss(scales[kRows + row]));
    for (int64_t s = 0; s < n_steps; ++s) {
      const uint8_t* step = codes + s * kStepBytesOf<kFormat>;
      D2Q_UNROLL
      for (int half = 0; half < 2; ++half) {
        __m256 weights[2];
        D2Q_UNROLL
        for (int i = 0; i < 2; ++i) {
          const __m256i code = row_codes<kFormat>(step, row, 2 * half + i);
          if constexpr (is_sign_planes(kFormat)) {
            weights[i] = _mm256_permutevar8x32_ps(levels, code);
          } else {
            weights[i] = _mm256_mul_ps(scale, _mm256_sub_ps(_mm256_cvtepi32_ps(code), zero));
          }
        }
        store_row(out + row * row_stride + 32 * s + 16 * half, weights);
      }
    }
  }
}

}  // namespace

const PackedKernels kPackedKernelsAvx2 = {
    "avx2",
    quantize_block,
    {mat_vec<kUniform2>, mat_vec<kUniform3>, mat_vec<kUniform4>, mat_vec<kUniform6>,
     mat_vec<kUniform8>, mat_vec<kSignPlanes2>, mat_vec<kSignPlanes3>},
    {dequantize<kUniform2, float>, dequantize<kUniform3, float>, dequantize<kUniform4, float>,
     dequantize<kUniform6, float>, dequantize<kUniform8, float>, dequantize<kSignPlanes2, float>,
     dequantize<kSignPlanes3, float>},
    {dequantize<kUniform2, uint16_t>, dequantize<kUniform3, uint16_t>,
     dequantize<kUniform4, uint16_t>, dequantize<kUniform6, uint16_t>,
     dequantize<kUniform8, uint16_t>, dequantize<kSignPlanes2, uint16_t>,
     dequantize<kSignPlanes3, uint16_t>},
    &kLookupKernelsAvx2};

}  // namespace d2q
