// The order in which AVX2 looks sign planes up (packed_lookup_avx2.cpp), a step at a time.
//
// Planes 0 and 1, 128 bytes: vector b of 32 has the bytes of place b of every dword, and a byte has
// one plane's bits of columns 4p + b of both atoms, p = 0 and 1 in its low nibble (bit 2p the first
// atom, 2p + 1 the second), p = 2 and 3 in the other. A lane has rows 0 to 3 and 8 to 11, or 4 to 7
// and 12 to 15, first of plane 0, then of plane 1.
// Plane 2, 64 bytes: vector i has the bytes of place 2i in its low lane and of 2i + 1 in its high
// one, as they were stored, of rows 0 to 3, 8 to 11, 4 to 7 and 12 to 15.
//
// From the stored order that takes 6 operations for 32 bytes: too many for every token.
#pragma once

#include <cstdint>

namespace d2q {

/// LookupKernels::arrange and restore.
void arrange_two_planes(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept;
void arrange_three_planes(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept;
void restore_two_planes(const uint8_t* arranged, int64_t n_steps, uint8_t* out) noexcept;
void restore_three_planes(const uint8_t* arranged, int64_t n_steps, uint8_t* out) noexcept;

}  // namespace d2q
