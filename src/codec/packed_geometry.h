// The sizes that follow from a PackedLayout: what a kernel needs to walk the bytes.
#pragma once

#include <cstdint>

#include "codec/packed_atoms.h"
#include "codec/packed_matrix.h"

namespace d2q {

/// Derived sizes of a valid layout. A group is `group_steps` steps of 32 columns, the last one
/// `last_group_steps`.
struct PackedGeometry {
  int64_t n_groups = 0;
  int64_t group_steps = 0;
  int64_t last_group_steps = 0;
  int64_t n_row_tiles = 0;
  int64_t tile_steps = 0;       // steps of one row tile, all groups
  int64_t tile_code_bytes = 0;  // tile_steps * 64 * bits
  int64_t tile_scales = 0;      // n_groups * n_params * 16

  int64_t steps_of(int64_t group) const {
    return group + 1 == n_groups ? last_group_steps : group_steps;
  }
};

/// The geometry of a layout that validate() accepts.
PackedGeometry geometry_of(const PackedLayout& layout);

/// Columns [begin, begin + size) of a group, unpadded.
struct GroupColumns {
  int64_t begin = 0;
  int64_t size = 0;
};
GroupColumns columns_of(const PackedLayout& layout, int64_t group);

/// The weight that a code stands for. Uniform: scale * (code - zero) with both operations rounded
/// to f32. Sign planes: ((±r0) + (±r1)) + (±r2), summed in this order in f32. params: n_params.
float weight_of(PackedKind kind, int bits, const float* params, int code);

/// Writes one row tile's weights of one group: out[row * row_stride + column], all 16 rows and the
/// group's padded width (steps * 32 columns; columns beyond the group hold what code 0 stands for).
void dequantize_tile(const PackedView& packed, int64_t tile, int64_t group, float* out,
                     int64_t row_stride);

}  // namespace d2q
