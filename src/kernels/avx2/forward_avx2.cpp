// The forward's and the backward's inner loops, 8 lanes; needs AVX2, FMA and F16C.
#include <immintrin.h>

#include "kernels/forward_kernels.h"
#include "kernels/gradient_kernels.h"

namespace d2q {
namespace {

using Vec = __m256;
constexpr int64_t kWidth = 8;

inline __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load_n(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store_n(float* p, Vec v, int64_t n) { _mm256_maskstore_ps(p, first(n), v); }

// AVX2 has no masked 16-bit moves: tails go through a small array.
inline __m128i load_bits(const uint16_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m128i load_bits_n(const uint16_t* p, int64_t n) {
  uint16_t lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load_bits(lanes);
}
inline void store_bits(uint16_t* p, __m128i v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
}
inline void store_bits_n(uint16_t* p, __m128i v, int64_t n) {
  uint16_t lanes[kWidth];
  store_bits(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

inline Vec from_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vec load_bf16(const uint16_t* p) { return from_bf16(load_bits(p)); }
inline Vec load_bf16_n(const uint16_t* p, int64_t n) { return from_bf16(load_bits_n(p, n)); }
inline __m128i to_bf16(Vec v) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i high = _mm256_srli_epi32(u, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i bits = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
}
inline void store_bf16(uint16_t* p, Vec v) { store_bits(p, to_bf16(v)); }
inline void store_bf16_n(uint16_t* p, Vec v, int64_t n) { store_bits_n(p, to_bf16(v), n); }
inline void store_probability(uint16_t* p, Vec v) { store_bf16(p, v); }
inline Vec load_f16(const uint16_t* p) { return _mm256_cvtph_ps(load_bits(p)); }
inline Vec load_f16_n(const uint16_t* p, int64_t n) { return _mm256_cvtph_ps(load_bits_n(p, n)); }
inline Vec load_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline __m128i to_f16(Vec v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
inline void store_f16(uint16_t* p, Vec v) { store_bits(p, to_f16(v)); }
inline void store_f16_n(uint16_t* p, Vec v, int64_t n) { store_bits_n(p, to_f16(v), n); }

inline Vec set(float x) { return _mm256_set1_ps(x); }
inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec vadd(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec vsub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec vmul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec vdiv(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec vmax(Vec a, Vec b) { return _mm256_max_ps(b, a); }  // keeps a NaN in a
inline Vec vmin(Vec a, Vec b) { return _mm256_min_ps(b, a); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline float reduce_add(Vec v) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}
inline float reduce_max(Vec v) {
  __m128 top = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  top = _mm_max_ps(top, _mm_movehl_ps(top, top));
  return _mm_cvtss_f32(_mm_max_ss(top, _mm_shuffle_ps(top, top, 1)));
}
inline float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
inline Vec round_nearest(Vec v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// In two halves, so that 2^-127 and 2^127 are reached without leaving the exponent's range.
inline Vec scale_by_power(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i low = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const auto power = [&](__m256i exponent) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, bias), 23));
  };
  return _mm256_mul_ps(_mm256_mul_ps(a, power(low)), power(_mm256_sub_epi32(whole, low)));
}

#include "kernels/forward_kernels_inl.h"
#include "kernels/gradient_kernels_inl.h"

}  // namespace

const ForwardKernels kForwardAvx2 = {
    "avx2",     f32_to_bf16,  bf16_to_f32, f32_to_f16,   f16_to_f32,   rms_norm,
    layer_norm, rotate,       maximum,     exp_sum,      exp_sum_bf16, scale,
    silu,       gelu_tanh,    add,         multiply_add, dot_f32,      dot_bf16,
    score_keys, weigh_values, score_keys,  weigh_values};

const GradientKernels kGradientAvx2 = {silu_gradient, gelu_tanh_gradient, softmax_gradient,
                                       softmax_gradient_bf16, norm_gradient};

}  // namespace d2q
