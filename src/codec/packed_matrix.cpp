#include "codec/packed_matrix.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "base/checked.h"
#include "base/error.h"
#include "codec/packed_geometry.h"

namespace d2q {
namespace {

constexpr const char* name_of(PackedKind kind) {
  return kind == PackedKind::kUniform ? "uniform" : "sign-plane";
}

bool bits_are_supported(PackedKind kind, int bits) {
  switch (kind) {
    case PackedKind::kUniform:
      return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8;
    case PackedKind::kSignPlanes:
      return bits == 2 || bits == 3;
  }
  return false;
}

void check_dimension(const std::string& subject, const char* what, int64_t value) {
  if (value < 1 || value > kMaxPackedDimension) {
    fail(ErrorCode::kInvalidArgument, "{}: {} is {}, expected 1 to {}", subject, what, value,
         kMaxPackedDimension);
  }
}

int64_t checked_size(const PackedLayout& layout, uint64_t per_tile, const std::string& subject) {
  const uint64_t total =
      checked_mul(static_cast<uint64_t>(layout.n_row_tiles()), per_tile, subject);
  if (total > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes do not fit in 63 bits; corrupt file?", subject, total);
  }
  return static_cast<int64_t>(total);
}

void check_view(const PackedView& packed) {
  validate(packed.layout, "packed matrix");
  const int64_t n_codes = codes_bytes(packed.layout);
  const int64_t n_scales = scales_count(packed.layout);
  D2Q_CHECK(static_cast<int64_t>(packed.codes.size()) == n_codes, "{} bytes of codes, expected {}",
            packed.codes.size(), n_codes);
  D2Q_CHECK(static_cast<int64_t>(packed.scales.size()) == n_scales, "{} scales, expected {}",
            packed.scales.size(), n_scales);
}

void check_unpacked(const PackedLayout& layout, size_t n_codes, size_t n_params) {
  D2Q_CHECK(static_cast<int64_t>(n_codes) == layout.rows * layout.cols, "{} codes for {} x {}",
            n_codes, layout.rows, layout.cols);
  const int64_t expected = layout.rows * layout.n_groups() * layout.n_params();
  D2Q_CHECK(static_cast<int64_t>(n_params) == expected, "{} parameters, expected {}", n_params,
            expected);
}

/// Calls visit(tile, group, first step of the group in the tile) in storage order.
template <typename Visit>
void for_each_tile_group(const PackedGeometry& geometry, const Visit& visit) {
  for (int64_t tile = 0; tile < geometry.n_row_tiles; ++tile) {
    for (int64_t group = 0; group < geometry.n_groups; ++group) visit(tile, group);
  }
}

int64_t step_offset(const PackedGeometry& geometry, int bits, int64_t tile, int64_t group) {
  return tile * geometry.tile_code_bytes + group * geometry.group_steps * step_bytes(bits);
}

int64_t scale_offset(const PackedLayout& layout, int64_t tile, int64_t group) {
  return (tile * layout.n_groups() + group) * layout.n_params() * kTileRows;
}

/// The fields `shift` bits up and `mask` wide of 32 / kBits codes a word, in the order of an atom:
/// a word of codes at a time, whose bytes do not meet.
template <int kBits>
void write_atoms(const uint8_t* codes, int shift, uint32_t mask, uint8_t* atoms) {
  constexpr int64_t kColumns = 32 / kBits;
  for (int64_t first = 0; first < kStepColumns; first += kColumns) {
    uint32_t word = 0;
    for (int64_t c = 0; c < kColumns; c += 4) {
      uint32_t four = 0;
      std::memcpy(&four, codes + first + c, sizeof(four));
      word |= (four >> shift & mask * 0x01010101u) << (c / 4 * kBits);
    }
    std::memcpy(atoms + first / kColumns * kAtomBytes, &word, sizeof(word));
  }
}

/// One row's 32 codes of a step; write_code() says where they go.
void write_row(int bits, const uint8_t* codes, uint8_t* step, int64_t row) {
  uint8_t* words = step + row * 4;
  switch (bits) {
    case 2:
      return write_atoms<2>(codes, 0, 3, words);
    case 3:
      write_atoms<2>(codes, 0, 3, words);
      return write_atoms<1>(codes, 2, 1, words + 2 * kAtomBytes);
    case 4:
      return write_atoms<4>(codes, 0, 15, words);
    case 6:
      write_atoms<4>(codes, 0, 15, words);
      return write_atoms<2>(codes, 4, 3, words + 4 * kAtomBytes);
    default:
      return write_atoms<8>(codes, 0, 255, words);
  }
}

Half checked_half(float value, int64_t row, int64_t group) {
  const Half half = to_half(value);
  if ((half.bits & 0x7c00u) == 0x7c00u) {
    fail(ErrorCode::kNumeric,
         "packing: quantizer parameter {} of row {}, group {} is not finite in fp16 (largest {}); "
         "did the weights contain outliers, NaN or Inf?",
         value, row, group, kHalfMax);
  }
  return half;
}

}  // namespace

void validate(const PackedLayout& layout, const std::string& subject) {
  if (!bits_are_supported(layout.kind, layout.bits)) {
    fail(ErrorCode::kInvalidArgument,
         "{}: {} weights of {} bits, expected 2, 3, 4, 6 or 8 (uniform) or 2 or 3 (sign planes)",
         subject, name_of(layout.kind), layout.bits);
  }
  check_dimension(subject, "number of rows", layout.rows);
  check_dimension(subject, "number of columns", layout.cols);
  check_dimension(subject, "group size", layout.group_size);
}

PackedGeometry geometry_of(const PackedLayout& layout) {
  PackedGeometry geometry;
  geometry.n_groups = layout.n_groups();
  geometry.n_row_tiles = layout.n_row_tiles();
  const int64_t last = layout.cols - (geometry.n_groups - 1) * layout.group_size;
  geometry.group_steps = (layout.group_size + kStepColumns - 1) / kStepColumns;
  geometry.last_group_steps = (last + kStepColumns - 1) / kStepColumns;
  // With the limits of validate() these stay below 2^31 * 2^9 bytes.
  geometry.tile_steps = (geometry.n_groups - 1) * geometry.group_steps + geometry.last_group_steps;
  geometry.tile_code_bytes = geometry.tile_steps * step_bytes(layout.bits);
  geometry.tile_scales = geometry.n_groups * layout.n_params() * kTileRows;
  return geometry;
}

GroupColumns columns_of(const PackedLayout& layout, int64_t group) {
  const int64_t begin = group * layout.group_size;
  return {begin, std::min(layout.group_size, layout.cols - begin)};
}

int64_t codes_bytes(const PackedLayout& layout) {
  validate(layout, "packed matrix");
  return checked_size(layout, static_cast<uint64_t>(geometry_of(layout).tile_code_bytes),
                      "packed codes");
}

int64_t scales_count(const PackedLayout& layout) {
  validate(layout, "packed matrix");
  return checked_size(layout, static_cast<uint64_t>(geometry_of(layout).tile_scales),
                      "packed scales");
}

int64_t packed_bytes(const PackedLayout& layout) {
  return codes_bytes(layout) + static_cast<int64_t>(sizeof(Half)) * scales_count(layout);
}

float weight_of(PackedKind kind, int bits, const float* params, int code) {
  if (kind == PackedKind::kUniform) {
    const float centred = static_cast<float>(code) - params[1];
    return params[0] * centred;
  }
  float sum = (code & 1) != 0 ? params[0] : -params[0];
  for (int plane = 1; plane < bits; ++plane) {
    sum += ((code >> plane) & 1) != 0 ? params[plane] : -params[plane];
  }
  return sum;
}

void pack_tiles(const PackedLayout& layout, int64_t first_tile, int64_t n_tiles,
                std::span<const uint8_t> codes, std::span<const float> params,
                std::span<uint8_t> packed_codes, std::span<Half> packed_scales) {
  check_view({layout, packed_codes, packed_scales});
  check_unpacked(layout, codes.size(), params.size());
  D2Q_CHECK(first_tile >= 0 && n_tiles >= 0 && first_tile + n_tiles <= layout.n_row_tiles(),
            "row tiles {}+{} of {}", first_tile, n_tiles, layout.n_row_tiles());
  const PackedGeometry geometry = geometry_of(layout);
  const int n_params = layout.n_params();
  uint8_t all_bits = 0;
  for (int64_t tile = first_tile; tile < first_tile + n_tiles; ++tile) {
    uint8_t* tile_codes = packed_codes.data() + step_offset(geometry, layout.bits, tile, 0);
    std::fill(tile_codes, tile_codes + geometry.tile_code_bytes, uint8_t{0});
    Half* tile_scales = packed_scales.data() + scale_offset(layout, tile, 0);
    std::fill(tile_scales, tile_scales + geometry.tile_scales, Half{});
    for (int64_t group = 0; group < geometry.n_groups; ++group) {
      const GroupColumns columns = columns_of(layout, group);
      uint8_t* steps = packed_codes.data() + step_offset(geometry, layout.bits, tile, group);
      Half* scales = packed_scales.data() + scale_offset(layout, tile, group);
      const int64_t n_rows = std::min(kTileRows, layout.rows - tile * kTileRows);
      for (int64_t r = 0; r < n_rows; ++r) {
        const int64_t row = tile * kTileRows + r;
        const uint8_t* source = codes.data() + row * layout.cols + columns.begin;
        for (int64_t c = 0; c < columns.size; c += kStepColumns) {
          std::array<uint8_t, kStepColumns> step{};
          const int64_t count = std::min(kStepColumns, columns.size - c);
          std::memcpy(step.data(), source + c, static_cast<size_t>(count));
          for (const uint8_t code : step) all_bits = static_cast<uint8_t>(all_bits | code);
          write_row(layout.bits, step.data(), steps + c / kStepColumns * step_bytes(layout.bits),
                    r);
        }
        const float* row_params = params.data() + (row * geometry.n_groups + group) * n_params;
        for (int k = 0; k < n_params; ++k) {
          scales[k * kTileRows + r] = checked_half(row_params[k], row, group);
        }
      }
    }
  }
  D2Q_CHECK((all_bits >> layout.bits) == 0, "a code has more than {} bits", layout.bits);
}

void pack(const PackedLayout& layout, std::span<const uint8_t> codes, std::span<const float> params,
          std::span<uint8_t> packed_codes, std::span<Half> packed_scales) {
  validate(layout, "packed matrix");
  pack_tiles(layout, 0, layout.n_row_tiles(), codes, params, packed_codes, packed_scales);
}

void unpack(const PackedView& packed, std::span<uint8_t> codes, std::span<float> params) {
  check_view(packed);
  const PackedLayout& layout = packed.layout;
  check_unpacked(layout, codes.size(), params.size());
  const PackedGeometry geometry = geometry_of(layout);
  const int n_params = layout.n_params();
  for_each_tile_group(geometry, [&](int64_t tile, int64_t group) {
    const GroupColumns columns = columns_of(layout, group);
    const uint8_t* steps = packed.codes.data() + step_offset(geometry, layout.bits, tile, group);
    const Half* scales = packed.scales.data() + scale_offset(layout, tile, group);
    const int64_t n_rows = std::min(kTileRows, layout.rows - tile * kTileRows);
    for (int64_t r = 0; r < n_rows; ++r) {
      const int64_t row = tile * kTileRows + r;
      uint8_t* target = codes.data() + row * layout.cols + columns.begin;
      for (int64_t c = 0; c < columns.size; ++c) {
        target[c] = read_code(layout.bits, steps + c / kStepColumns * step_bytes(layout.bits), r,
                              c % kStepColumns);
      }
      float* row_params = params.data() + (row * geometry.n_groups + group) * n_params;
      for (int k = 0; k < n_params; ++k) row_params[k] = to_float(scales[k * kTileRows + r]);
    }
  });
}

void dequantize_tile(const PackedView& packed, int64_t tile, int64_t group, float* out,
                     int64_t row_stride) {
  const PackedLayout& layout = packed.layout;
  const PackedGeometry geometry = geometry_of(layout);
  const int bits = layout.bits;
  const int n_params = layout.n_params();
  const uint8_t* steps = packed.codes.data() + step_offset(geometry, bits, tile, group);
  const Half* scales = packed.scales.data() + scale_offset(layout, tile, group);
  const int64_t width = geometry.steps_of(group) * kStepColumns;
  std::array<float, 256> levels{};
  for (int64_t r = 0; r < kTileRows; ++r) {
    std::array<float, 3> params{};
    for (int k = 0; k < n_params; ++k)
      params[static_cast<size_t>(k)] = to_float(scales[k * kTileRows + r]);
    for (int code = 0; code < (1 << bits); ++code) {
      levels[static_cast<size_t>(code)] = weight_of(layout.kind, bits, params.data(), code);
    }
    for (int64_t c = 0; c < width; ++c) {
      out[r * row_stride + c] =
          levels[read_code(bits, steps + c / kStepColumns * step_bytes(bits), r, c % kStepColumns)];
    }
  }
}

void dequantize(const PackedView& packed, std::span<float> weights) {
  check_view(packed);
  const PackedLayout& layout = packed.layout;
  D2Q_CHECK(static_cast<int64_t>(weights.size()) == layout.rows * layout.cols,
            "{} weights for {} x {}", weights.size(), layout.rows, layout.cols);
  const PackedGeometry geometry = geometry_of(layout);
  const int64_t width = geometry.group_steps * kStepColumns;
  std::vector<float> tile_weights(static_cast<size_t>(kTileRows * width));
  for_each_tile_group(geometry, [&](int64_t tile, int64_t group) {
    dequantize_tile(packed, tile, group, tile_weights.data(), width);
    const GroupColumns columns = columns_of(layout, group);
    const int64_t n_rows = std::min(kTileRows, layout.rows - tile * kTileRows);
    for (int64_t r = 0; r < n_rows; ++r) {
      std::copy_n(tile_weights.data() + r * width, columns.size,
                  weights.data() + (tile * kTileRows + r) * layout.cols + columns.begin);
    }
  });
}

void dequantize_row(const PackedView& packed, int64_t row, std::span<float> weights) {
  const PackedLayout& layout = packed.layout;
  D2Q_CHECK(row >= 0 && row < layout.rows, "row {} of {}", row, layout.rows);
  D2Q_CHECK(static_cast<int64_t>(weights.size()) == layout.cols, "{} weights for {}",
            weights.size(), layout.cols);
  const PackedGeometry geometry = geometry_of(layout);
  const int64_t tile = row / kTileRows, r = row % kTileRows;
  for (int64_t group = 0; group < geometry.n_groups; ++group) {
    const uint8_t* steps = packed.codes.data() + step_offset(geometry, layout.bits, tile, group);
    const Half* scales = packed.scales.data() + scale_offset(layout, tile, group);
    std::array<float, 3> params{};
    for (int k = 0; k < layout.n_params(); ++k)
      params[static_cast<size_t>(k)] = to_float(scales[k * kTileRows + r]);
    const GroupColumns columns = columns_of(layout, group);
    for (int64_t c = 0; c < columns.size; ++c) {
      const uint8_t* step = steps + c / kStepColumns * step_bytes(layout.bits);
      weights[static_cast<size_t>(columns.begin + c)] =
          weight_of(layout.kind, layout.bits, params.data(),
                    read_code(layout.bits, step, r, c % kStepColumns));
    }
  }
}

}  // namespace d2q
