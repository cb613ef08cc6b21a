// The packed kernels of one ISA: a table of plain function pointers, one table in each ISA's
// folder. Included by files that are compiled with ISA flags: nothing but <cstdint> and plain
// structs here.
//
// Activations. A column group is cut into blocks of at most 128 columns (4 steps of 32). A block of
// x becomes integers q = round(x / scale), so that x ≈ scale * q. "a16": q = 256 high + low with
// signed bytes high and low, both the byte operand of vpdpbusd and vpmaddubsw, so |q| <= 32639; and
// the Σ |q| of every quad is below 65536, so that sums of its subsets can be looked up in two
// bytes. A quad is four columns whose bits some kernel looks up at once: 4p + b of an atom's 16 for
// p = 0 to 3, which share a byte of the codes, or for p = 0, 1 or p = 2, 3 of a step's two atoms.
// scale is the smallest that grants both: the largest of max|x| / 32639 and (a quad's Σ |x|) /
// 65528. The error is at most scale / 2 an element, 2.9e-5 of a Gaussian vector's norm. "a8": scale
// = max|x| / 127 and high alone; the error is 6e-3 of the norm, and half the products are spared.
//
// Mat-vec. For every row, block and code plane (uniform: the code itself) the dot product with q is
// an exact integer below 2^31, for planes below 2^23. It meets the weights' parameters in f32 with
// fused multiply-adds in this order, the same in every ISA, so all tables give the same bits
// (sum = Σ q, below 2^23; f32(...) rounds to nearest):
//   planes:  y = fma(r_k * scale, f32(2 dot_k - sum), y) for k = 0, 1(, 2)
//   uniform: y = fma(weight scale * scale, fma(-zero, sum, f32(dot)), y)
#pragma once

#include <cstdint>

#include "codec/packed_atoms.h"

namespace d2q {

enum PackedFormat : int {
  kUniform2,
  kUniform3,
  kUniform4,
  kUniform6,
  kUniform8,
  kSignPlanes2,
  kSignPlanes3,
  kNPackedFormats
};

constexpr int bits_of(PackedFormat format) {
  switch (format) {
    case kUniform2:
    case kSignPlanes2:
      return 2;
    case kUniform3:
    case kSignPlanes3:
      return 3;
    case kUniform4:
      return 4;
    case kUniform6:
      return 6;
    case kUniform8:
      return 8;
    case kNPackedFormats:
      break;
  }
  return 0;
}

constexpr bool is_sign_planes(PackedFormat format) {
  return format == kSignPlanes2 || format == kSignPlanes3;
}

// For code of one instruction set constants, not calls: a call of a constexpr function may be
// emitted as a weak symbol, which a linker could share with code for older processors.
namespace {
template <PackedFormat kFormat>
constexpr int kBitsOf = bits_of(kFormat);
template <PackedFormat kFormat>
constexpr int64_t kStepBytesOf = step_bytes(kBitsOf<kFormat>);
}  // namespace

/// fp16 parameters of a row and group.
constexpr int n_params_of(PackedFormat format) {
  return is_sign_planes(format) ? bits_of(format) : 2;
}

inline constexpr int64_t kBlockSteps = 4;     // steps of 32 columns that share an activation scale
inline constexpr int64_t kTokensPerPass = 4;  // tokens of one mat_vec call at most
inline constexpr float kLevels16 = 32639.0f;  // 127 * 256 + 127
inline constexpr float kLevels8 = 127.0f;
/// Four roundings up by half and those of f32 below 2^16.
inline constexpr float kQuadLevels = 65528.0f;
/// Blocks whose largest magnitude is below this count as zero: its reciprocal would overflow.
inline constexpr float kSmallestActivation = 1e-30f;

/// Up to kTokensPerPass tokens as one or two int8 digits.
struct QuantizedTokens {
  int64_t n_tokens = 0;
  const int8_t* high = nullptr;  // [n_tokens, padded columns]: steps in the order of the codes
  const int8_t* low = nullptr;   // the same shape; null: x has high digits only
  const float* scale = nullptr;  // [n_tokens, blocks]
  const float* sum = nullptr;    // [n_tokens, blocks]: Σ q
  int64_t token_stride = 0;      // padded columns
  int64_t block_stride = 0;      // blocks
  // For lookups only: [n_tokens, steps, table_stride], and for each block, [n_tokens, blocks], what
  // twice a looked-up sum exceeds 2 dot - sum by.
  const uint8_t* tables = nullptr;
  int64_t table_stride = 0;  // LookupKernels::table_bytes of the most planes among the matrices
  const float* table_offset = nullptr;
};

/// One row tile of 16 rows. No alignment is assumed.
struct PackedTile {
  const uint8_t* codes = nullptr;
  const uint16_t* scales = nullptr;  // fp16 [n_groups, n_params, 16]
  int64_t n_groups = 0;
  int64_t group_steps = 0;  // of all groups but the last
  int64_t last_group_steps = 0;
};

/// Mat-vec of sign planes by looking up sums of some columns at once. A table has the sum of every
/// subset, minus the smallest of them: 16 bits without a sign.
struct LookupKernels {
  int64_t table_bytes[2] = {};    // of a step, by planes - 2; those of more planes serve fewer, too
  int64_t max_tokens = 0;         // more share a code's bits better as products
  bool for_8_bit_digits = false;  // whether this beats the products of a8, too
  /// The tables of a block of 32 * n_steps columns; `low` is null for a8. Returns what the sums
  /// that mat_vec looks up exceed the dot products by; sum + 2 * that is
  /// QuantizedTokens::table_offset, an integer below 2^23.
  int32_t (*build_tables)(const int8_t* high, const int8_t* low, int64_t n_steps, int n_planes,
                          uint8_t* tables) noexcept = nullptr;
  /// y[16] = the tile times one token, which has tables; its digits are not read. The same bits as
  /// PackedKernels::mat_vec where the token's sums are those of its digits.
  using MatVec = void (*)(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept;
  MatVec mat_vec[2] = {};  // by planes - 2
  /// n_steps steps from the order of packed_atoms.h into the one that mat_vec reads, and back; as
  /// many bytes, other memory. Null: mat_vec reads the former. Where not, max_tokens is that of all
  /// products on codes and for_8_bit_digits is set: no other kernel multiplies by such codes.
  using Reorder = void (*)(const uint8_t* codes, int64_t n_steps, uint8_t* out) noexcept;
  Reorder arrange[2] = {};
  Reorder restore[2] = {};
};

struct PackedKernels {
  const char* name = nullptr;

  /// x[32 * n_steps] as digits, n_steps <= kBlockSteps; low may be null (a8). Inf or NaN in x makes
  /// *scale NaN.
  void (*quantize_block)(const float* x, int64_t n_steps, int8_t* high, int8_t* low, float* scale,
                         float* sum) noexcept = nullptr;

  /// y[n_tokens, 16] = the tile times each token.
  using MatVec = void (*)(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept;
  MatVec mat_vec[kNPackedFormats] = {};

  /// One group of a tile as weights: out[row * row_stride + column], 16 rows, 32 * n_steps columns;
  /// the same bits as dequantize_tile() of codec/.
  using DequantizeF32 = void (*)(const uint8_t* codes, const uint16_t* scales, int64_t n_steps,
                                 float* out, int64_t row_stride) noexcept;
  /// The same rounded to bf16, nearest even.
  using DequantizeBf16 = void (*)(const uint8_t* codes, const uint16_t* scales, int64_t n_steps,
                                  uint16_t* out, int64_t row_stride) noexcept;
  DequantizeF32 dequantize_f32[kNPackedFormats] = {};
  DequantizeBf16 dequantize_bf16[kNPackedFormats] = {};

  const LookupKernels* lookup = nullptr;  // null: not on this machine
};

extern const PackedKernels kPackedKernelsScalar;
extern const PackedKernels kPackedKernelsAvx2;
extern const PackedKernels kPackedKernelsAvx512;
extern const LookupKernels kLookupKernelsAvx2;
extern const LookupKernels kLookupKernelsAvx512Vbmi;

}  // namespace d2q
