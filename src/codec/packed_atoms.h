// Where each code of a packed matrix lies, as constexpr functions: the layout drawing of
// packed_matrix.h in code. Everything else (packers, kernels, tests) is checked against these.
#pragma once

#include <cstdint>

namespace d2q {

/// A step is 16 rows by 32 columns: the smallest run of columns that every bit width fills with
/// whole atoms.
inline constexpr int64_t kStepColumns = 32;
inline constexpr int64_t kAtomBytes = 64;

/// Bytes of one step: 16 rows * 32 columns * bits / 8.
constexpr int64_t step_bytes(int bits) { return kAtomBytes * bits; }

/// Where the code of (row, column) of a step starts: byte within the step and bit within the byte.
/// For 3 bits this is the place of code bits 0 and 1, third_bit_place() has bit 2; for 6 bits of
/// code bits 0 to 3.
struct CodePlace {
  int64_t byte = 0;
  int bit = 0;
};

constexpr CodePlace code_place(int bits, int64_t row, int64_t column) {
  const int field = bits == 3 ? 2 : bits == 6 ? 4 : bits;
  const int64_t columns_per_atom = 32 / field;
  const int64_t within = column % columns_per_atom;
  return {column / columns_per_atom * kAtomBytes + row * 4 + within % 4,
          static_cast<int>(within / 4) * field};
}

constexpr CodePlace third_bit_place(int64_t row, int64_t column) {
  return {2 * kAtomBytes + row * 4 + column % 4, static_cast<int>(column / 4)};
}

/// Code bits 4 and 5 of a 6-bit code: 2-bit atoms behind the four of the low bits.
constexpr CodePlace top_bits_place(int64_t row, int64_t column) {
  const CodePlace place = code_place(2, row, column);
  return {4 * kAtomBytes + place.byte, place.bit};
}

/// The code of (row, column), row in [0, 16), column in [0, 32), of the step at `step`.
constexpr uint8_t read_code(int bits, const uint8_t* step, int64_t row, int64_t column) {
  const CodePlace place = code_place(bits, row, column);
  const int mask = bits == 3 ? 3 : bits == 6 ? 15 : (1 << bits) - 1;
  int code = (step[place.byte] >> place.bit) & mask;
  if (bits == 3) {
    const CodePlace third = third_bit_place(row, column);
    code |= ((step[third.byte] >> third.bit) & 1) << 2;
  }
  if (bits == 6) {
    const CodePlace top = top_bits_place(row, column);
    code |= ((step[top.byte] >> top.bit) & 3) << 4;
  }
  return static_cast<uint8_t>(code);
}

/// Adds a code to a step whose bits at that place are still zero.
constexpr void write_code(int bits, uint8_t* step, int64_t row, int64_t column, uint8_t code) {
  const CodePlace place = code_place(bits, row, column);
  const int low = bits == 3 ? code & 3 : bits == 6 ? code & 15 : code;
  step[place.byte] = static_cast<uint8_t>(step[place.byte] | (low << place.bit));
  if (bits == 3) {
    const CodePlace third = third_bit_place(row, column);
    step[third.byte] = static_cast<uint8_t>(step[third.byte] | ((code >> 2) << third.bit));
  }
  if (bits == 6) {
    const CodePlace top = top_bits_place(row, column);
    step[top.byte] = static_cast<uint8_t>(step[top.byte] | ((code >> 4) << top.bit));
  }
}

static_assert(step_bytes(2) == 128 && step_bytes(3) == 192 && step_bytes(4) == 256 &&
              step_bytes(6) == 384 && step_bytes(8) == 512);
static_assert(code_place(2, 0, 0).byte == 0 && code_place(2, 1, 0).byte == 4);
static_assert(code_place(2, 0, 5).byte == 1 && code_place(2, 0, 5).bit == 2);
static_assert(code_place(2, 15, 31).byte == 127 && code_place(2, 15, 31).bit == 6);
static_assert(code_place(4, 2, 13).byte == 64 + 8 + 1 && code_place(4, 2, 13).bit == 4);
static_assert(code_place(8, 15, 31).byte == 511 && code_place(8, 15, 31).bit == 0);
static_assert(third_bit_place(15, 31).byte == 191 && third_bit_place(15, 31).bit == 7);

}  // namespace d2q
