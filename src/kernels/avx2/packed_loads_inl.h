// What the packed kernels with AVX2 read and write memory with; no alignment is assumed. Included
// by files of this folder only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace d2q {
namespace {

inline __m256i load256(const uint8_t* bytes) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

inline void store256(uint8_t* bytes, __m256i value) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
}

/// 16 digits of an activation as int16.
inline __m256i load_digits(const int8_t* digits) noexcept {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(digits)));
}

/// 8 fp16 as f32.
inline __m256 load_half8(const uint16_t* halves) noexcept {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}

}  // namespace
}  // namespace d2q
