// Packed weights: what is on disk is what the kernels stream.
//
// A matrix [rows, cols] is cut into row tiles of 16 rows (the last one padded with zero rows) and
// column groups of `group_size` columns (the last one may be shorter; each is padded to a multiple
// of 32 columns with code 0). Codes are stored tile by tile: for row tile, for group, the group's
// atoms. Scales are stored separately in the same order: for row tile, for group, for parameter k,
// 16 fp16.
//
// An atom is 64 bytes = 16 dwords; dword lane = row within the tile. Within a dword, byte b:
//   2 bits: 16 columns; bits (2p, 2p+1) of byte b = code of column 4p + b
//   3 bits: two 2-bit atoms for 32 columns (code bits 0, 1), then one atom with bit p of byte b =
//           code bit 2 of column 4p + b; stored per 32 columns in this order: 192 bytes
//   4 bits: 8 columns; bits 4p..4p+3 of byte b = code of column 4p + b
//   6 bits: four 4-bit atoms for 32 columns (code bits 0 to 3), then two 2-bit atoms (bits 4, 5)
//   8 bits: 4 columns; byte b = code of column b
// Uniform (METHOD.md §5.1): parameters {scale, zero}, ŵ = scale·(code − zero).
// Sign planes (§5.2): parameters {r0, r1[, r2]}; code bit k set = +r_k, clear = −r_k. Bits 2 and 3
// only.
//
// Sizes: a row tile has S = (n_groups − 1)·ceil(group_size/32) + ceil(last group/32) steps of 32
// columns. Codes take ceil(rows/16)·S·64·bits bytes, scales ceil(rows/16)·n_groups·n_params·16
// fp16. Limits: rows, cols and group_size lie in [1, 2³¹ − 1].
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/half.h"

namespace d2q {

enum class PackedKind : uint8_t { kUniform, kSignPlanes };

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kColumnPadding = 32;
inline constexpr int64_t kMaxPackedDimension = 2147483647;

/// Everything that fixes a packed matrix's size and meaning.
struct PackedLayout {
  PackedKind kind = PackedKind::kSignPlanes;
  int bits = 2;  // uniform: 2, 3, 4, 6, 8; sign planes: 2, 3
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 128;  // any >= 1; multiples of 32 waste no padding

  int n_params() const { return kind == PackedKind::kUniform ? 2 : bits; }
  int64_t n_groups() const { return (cols + group_size - 1) / group_size; }
  int64_t n_row_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  friend bool operator==(const PackedLayout&, const PackedLayout&) = default;
};

/// Throws Error{kInvalidArgument} unless the layout is one that can be packed, Error{kCorrupt} when
/// its size does not fit in 63 bits. `subject` names the matrix in the message.
void validate(const PackedLayout& layout, const std::string& subject);

/// Bytes of the codes and number of fp16 scales; overflow throws Error{kCorrupt}.
int64_t codes_bytes(const PackedLayout& layout);
int64_t scales_count(const PackedLayout& layout);
/// Bytes of both together.
int64_t packed_bytes(const PackedLayout& layout);

/// Non-owning view of a packed matrix, typically into a memory-mapped file.
struct PackedView {
  PackedLayout layout;
  std::span<const uint8_t> codes;
  std::span<const Half> scales;
};

/// codes: [rows, cols] row-major, each below 2^bits; params: [rows, n_groups * n_params] row-major.
/// Outputs are sized by codes_bytes() and scales_count(). A parameter that is not finite in fp16
/// throws Error{kNumeric} naming its row and group.
void pack(const PackedLayout& layout, std::span<const uint8_t> codes, std::span<const float> params,
          std::span<uint8_t> packed_codes, std::span<Half> packed_scales);

/// pack() of the row tiles [first_tile, first_tile + n_tiles) alone; the spans are those of the
/// whole matrix. Other tiles may be packed at the same time.
void pack_tiles(const PackedLayout& layout, int64_t first_tile, int64_t n_tiles,
                std::span<const uint8_t> codes, std::span<const float> params,
                std::span<uint8_t> packed_codes, std::span<Half> packed_scales);

/// The inverse of pack().
void unpack(const PackedView& packed, std::span<uint8_t> codes, std::span<float> params);

/// The weights [rows, cols] that the packed matrix stands for; the arithmetic is weight_of() of
/// packed_geometry.h, f32 in a fixed order: the same bits as unpack() followed by it.
void dequantize(const PackedView& packed, std::span<float> weights);

/// Row `row` of dequantize(): [cols].
void dequantize_row(const PackedView& packed, int64_t row, std::span<float> weights);

}  // namespace d2q
