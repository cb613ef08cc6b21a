// Packed uniform 2-bit weights as GGUF's Q2_0, the same values to the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codec/packed_matrix.h"

namespace d2q {

inline constexpr int64_t kQ2Block = 64;  // weights that share a scale

/// Whether Q2_0 holds `packed` exactly: uniform, 2 bits, groups of whole blocks, every zero 1 or 2.
bool fits_q2_0(const PackedView& packed);

/// The bytes of all rows, one after another; fits_q2_0() must hold. A zero of 1 is {-1, 0, 1, 2}·s;
/// a zero of 2 the same with −s and the codes from the other end.
std::vector<std::byte> encode_q2_0(const PackedView& packed);

}  // namespace d2q
