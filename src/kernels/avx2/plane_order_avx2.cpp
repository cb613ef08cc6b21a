#include <immintrin.h>

#include "codec/packed_atoms.h"
#include "kernels/avx2/packed_loads_inl.h"
#include "kernels/avx2/plane_order.h"

namespace d2q {
namespace {

constexpr int64_t kHalfAtomBytes = 32;
constexpr int64_t kTwoPlanesBytes = 2 * kAtomBytes;

/// Brings the bytes of each place b together: dword b of a lane is that of its four rows. Its own
/// inverse.
__m256i by_place(__m256i bytes) noexcept {
  const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4,
                                         8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_shuffle_epi8(bytes, order);
}

/// Swaps bits 1, 3, 5, 7 of the first with bits 0, 2, 4, 6 of the second: two atoms become two
/// planes, and back.
void swap_planes(__m256i& first, __m256i& second) noexcept {
  const __m256i swapped = _mm256_and_si256(_mm256_xor_si256(_mm256_srli_epi16(first, 1), second),
                                           _mm256_set1_epi8(0x55));
  first = _mm256_xor_si256(first, _mm256_add_epi8(swapped, swapped));
  second = _mm256_xor_si256(second, swapped);
}

/// Dwords 0 and 2, or 1 and 3, of each lane of a, then of b.
template <bool kOdd>
__m256i every_other_dword(__m256i a, __m256i b) noexcept {
  return _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), kOdd ? 0xdd : 0x88));
}

void arrange_planes01(const uint8_t* step, uint8_t* out) noexcept {
  __m256i plane0[2], plane1[2];
  for (int half = 0; half < 2; ++half) {
    __m256i first = load256(step + half * kHalfAtomBytes);
    __m256i second = load256(step + kAtomBytes + half * kHalfAtomBytes);
    swap_planes(first, second);
    plane0[half] = by_place(first);
    plane1[half] = by_place(second);
  }
  const __m256i begin0 = _mm256_unpacklo_epi32(plane0[0], plane0[1]);
  const __m256i begin1 = _mm256_unpacklo_epi32(plane1[0], plane1[1]);
  const __m256i end0 = _mm256_unpackhi_epi32(plane0[0], plane0[1]);
  const __m256i end1 = _mm256_unpackhi_epi32(plane1[0], plane1[1]);
  store256(out, _mm256_unpacklo_epi64(begin0, begin1));
  store256(out + 32, _mm256_unpackhi_epi64(begin0, begin1));
  store256(out + 64, _mm256_unpacklo_epi64(end0, end1));
  store256(out + 96, _mm256_unpackhi_epi64(end0, end1));
}

void restore_planes01(const uint8_t* arranged, uint8_t* out) noexcept {
  __m256i places[4];
  for (int b = 0; b < 4; ++b) places[b] = load256(arranged + 32 * b);
  const __m256i begin0 = _mm256_unpacklo_epi64(places[0], places[1]);
  const __m256i begin1 = _mm256_unpackhi_epi64(places[0], places[1]);
  const __m256i end0 = _mm256_unpacklo_epi64(places[2], places[3]);
  const __m256i end1 = _mm256_unpackhi_epi64(places[2], places[3]);
  const __m256i plane0[2] = {every_other_dword<false>(begin0, end0),
                             every_other_dword<true>(begin0, end0)};
  const __m256i plane1[2] = {every_other_dword<false>(begin1, end1),
                             every_other_dword<true>(begin1, end1)};
  for (int half = 0; half < 2; ++half) {
    __m256i first = by_place(plane0[half]), second = by_place(plane1[half]);
    swap_planes(first, second);
    store256(out + half * kHalfAtomBytes, first);
    store256(out + kAtomBytes + half * kHalfAtomBytes, second);
  }
}

void arrange_plane2(const uint8_t* atom, uint8_t* out) noexcept {
  const __m256i first = by_place(load256(atom));
  const __m256i second = by_place(load256(atom + kHalfAtomBytes));
  store256(out, _mm256_permute4x64_epi64(_mm256_unpacklo_epi32(first, second), 0xd8));
  store256(out + 32, _mm256_permute4x64_epi64(_mm256_unpackhi_epi32(first, second), 0xd8));
}

void restore_plane2(const uint8_t* arranged, uint8_t* out) noexcept {
  const __m256i begin = _mm256_permute4x64_epi64(load256(arranged), 0xd8);
  const __m256i end = _mm256_permute4x64_epi64(load256(arranged + 32), 0xd8);
  store256(out, by_place(every_other_dword<false>(begin, end)));
  store256(out + kHalfAtomBytes, by_place(every_other_dword<true>(begin, end)));
}

template <int kPlanes>
void arrange(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept {
  for (int64_t s = 0; s < n_steps; ++s, codes += step_bytes(kPlanes), out += step_bytes(kPlanes)) {
    arrange_planes01(codes, out);
    if (kPlanes == 3) arrange_plane2(codes + kTwoPlanesBytes, out + kTwoPlanesBytes);
  }
}

template <int kPlanes>
void restore(const uint8_t* arranged, int64_t n_steps, uint8_t* out) noexcept {
  for (int64_t s = 0; s < n_steps;
       ++s, arranged += step_bytes(kPlanes), out += step_bytes(kPlanes)) {
    restore_planes01(arranged, out);
    if (kPlanes == 3) restore_plane2(arranged + kTwoPlanesBytes, out + kTwoPlanesBytes);
  }
}

}  // namespace

void arrange_two_planes(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept {
  arrange<2>(codes, n_steps, out);
}

void arrange_three_planes(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept {
  arrange<3>(codes, n_steps, out);
}

void restore_two_planes(const uint8_t* arranged, int64_t n_steps, uint8_t* out) noexcept {
  restore<2>(arranged, n_steps, out);
}

void restore_three_planes(const uint8_t* arranged, int64_t n_steps, uint8_t* out) noexcept {
  restore<3>(arranged, n_steps, out);
}

}  // namespace d2q
