// The layouts of packed weights, as types, and where a lane finds its codes and scales in them.
//
// In the file's layout (codec/packed_matrix.h) a step is 16 rows by 32 columns. What decoding reads
// instead are cells of 16 rows by 128 columns, bit by bit: a word has one bit of the codes of 32
// columns, column 32t + i in bit i of word t, which is what the tensor cores' products of single
// bits take as they are. In a cell lie, with g = 0 .. 7 and t = 0 .. 3,
//   for each pair of planes (2p, 2p + 1): [g][t][plane][row g, row g + 8], 512 bytes,
//   for a last single plane:              [g][t][row g, row g + 8],        256 bytes,
//   for each group that the cell has (one, or two of 64 columns): [g][parameter][row g, row g + 8]
// in f16, a group's parameters being repeated in every cell that it reaches. Cells follow each
// other along the columns, row tiles after that. Rows and columns past the end are zero bits, and
// rows have zero parameters.
#pragma once

#include "kernels/cuda/cuda_packed_kernels.h"
#include "kernels/cuda/cuda_values.cuh"

namespace d2q::cuda {

constexpr int kStepColumns = 32;
constexpr int kTileRows = 16;
constexpr int kLaneColumns = 16;
constexpr int kCellSteps = kCellColumns / kStepColumns;

template <bool kSignPlanes, int kBits>
struct Format {
  static constexpr bool kPlanes = kSignPlanes;
  static constexpr int kCodeBits = kBits;
  static constexpr int kParams = kSignPlanes ? kBits : 2;
  static constexpr int kStepBytes = 64 * kBits;
  // Words that a lane needs of a step. 3 bits: the third bits of all columns lie in one more atom.
  static constexpr int kWords = kBits == 2 ? 1 : kBits == 8 ? 4 : 2;
  static constexpr int kCellCodeBytes = 256 * kBits;
  static constexpr int kCellGroupBytes = 2 * kParams * kTileRows;
};

/// run(Format) for the weights' one.
template <typename Run>
cudaError_t with_format(bool sign_planes, int bits, const Run& run) {
  if (sign_planes) return bits == 2 ? run(Format<true, 2>()) : run(Format<true, 3>());
  switch (bits) {
    case 2:
      return run(Format<false, 2>());
    case 3:
      return run(Format<false, 3>());
    case 4:
      return run(Format<false, 4>());
    default:
      return run(Format<false, 8>());
  }
}

/// The codes of row `lane % 16` and of 16 columns, those of half `lane / 16`, of a step in the
/// file's layout, so that the atoms of a step are read in whole lines.
template <typename F>
struct StepCodes {
  unsigned words[F::kWords];
  int half;

  __device__ StepCodes(const unsigned char* step, int lane) : half(lane / 16) {
    const auto* atoms = reinterpret_cast<const unsigned*>(step) + lane % 16;  // 16 words an atom
    if constexpr (F::kCodeBits == 2) {
      words[0] = atoms[16 * half];
    } else if constexpr (F::kCodeBits == 3) {
      words[0] = atoms[16 * half];
      words[1] = atoms[32];
    } else {
#pragma unroll
      for (int i = 0; i < F::kWords; ++i) words[i] = atoms[16 * (F::kWords * half + i)];
    }
  }

  /// The code of the lane's column j in [0, 16).
  __device__ unsigned code(int j) const {
    const int byte = 8 * (j % 4);
    if constexpr (F::kCodeBits == 2) {
      return words[0] >> (byte + 2 * (j / 4)) & 3u;
    } else if constexpr (F::kCodeBits == 3) {
      return (words[0] >> (byte + 2 * (j / 4)) & 3u) | (words[1] >> (byte + 4 * half + j / 4) & 1u)
                                                           << 2;
    } else if constexpr (F::kCodeBits == 4) {
      return words[j / 8] >> (byte + j % 8 / 4 * 4) & 15u;
    } else {
      return words[j / 4] >> byte & 255u;
    }
  }
};

/// Byte of a cell at which the word of plane `plane`, row `row` and columns 32t .. 32t + 31 lies.
template <typename F>
__host__ __device__ constexpr int cell_word_offset(int plane, int row, int t) {
  const int place = row % 8 * 4 + t;
  return plane / 2 * 512 +
         (plane + 1 == F::kCodeBits && plane % 2 == 0 ? place * 8 : place * 16 + plane % 2 * 8) +
         row / 8 * 4;
}

/// The same as StepCodes for a step of a cell.
template <typename F>
struct CellCodes {
  unsigned planes[F::kCodeBits];
  int half;

  __device__ CellCodes(const unsigned char* cell, int step, int lane) : half(lane / 16) {
#pragma unroll
    for (int k = 0; k < F::kCodeBits; ++k) {
      planes[k] =
          *reinterpret_cast<const unsigned*>(cell + cell_word_offset<F>(k, lane % 16, step)) >>
          (kLaneColumns * half);
    }
  }
  __device__ unsigned code(int j) const {
    unsigned code = 0;
#pragma unroll
    for (int k = 0; k < F::kCodeBits; ++k) code |= (planes[k] >> j & 1u) << k;
    return code;
  }
};

/// weight_of() of codec/packed_geometry.h, with the same roundings.
template <typename F>
__device__ float weight_of(const float (&params)[F::kParams], unsigned code) {
  if constexpr (F::kPlanes) {
    float sum = 0.0f;
#pragma unroll
    for (int plane = 0; plane < F::kParams; ++plane) {
      const unsigned minus = (~code >> plane & 1u) << 31;
      const float value = __uint_as_float(__float_as_uint(params[plane]) ^ minus);
      sum = plane == 0 ? value : __fadd_rn(sum, value);
    }
    return sum;
  } else {
    // A code below 2^23 in the mantissa of 2^23: exact, and cheaper than a conversion.
    const float value = __uint_as_float(0x4b000000u | code) - 8388608.0f;
    return __fmul_rn(params[0], __fsub_rn(value, params[1]));
  }
}

/// Where a lane's 16 columns of a step lie in the matrix.
struct LaneColumns {
  int64_t group;
  int64_t begin;
  int count;  // of them, the rest is padding; may be <= 0
};

__device__ inline LaneColumns lane_columns(const PackedWeights& w, int64_t step, int lane) {
  // Steps of a tile are fewer than 2^32 (cols < 2^31), and 64-bit division is slow.
  const int64_t group = static_cast<unsigned>(step) / static_cast<unsigned>(w.group_steps);
  const int64_t begin = group * w.group_size + (step - group * w.group_steps) * kStepColumns +
                        lane / 16 * kLaneColumns;
  const int64_t end = min((group + 1) * w.group_size, w.cols);
  return {group, begin, static_cast<int>(min(end - begin, static_cast<int64_t>(kLaneColumns)))};
}

template <typename F>
__device__ void load_params(const PackedWeights& w, int64_t tile, int64_t group, int row,
                            float (&params)[F::kParams]) {
  const auto* source = reinterpret_cast<const __half*>(w.scales) +
                       (tile * w.n_groups + group) * F::kParams * kTileRows + row;
#pragma unroll
  for (int k = 0; k < F::kParams; ++k) params[k] = __half2float(source[k * kTileRows]);
}

/// visit(columns, weights of the lane's 16 columns) for a step of a row tile, in either layout;
/// not called when all of the columns are padding.
template <typename F, typename Visit>
__device__ void visit_weights(const PackedWeights& w, int64_t tile, int64_t step, int lane,
                              const Visit& visit) {
  const LaneColumns columns = lane_columns(w, step, lane);
  if (columns.count <= 0) return;
  float params[F::kParams];
  float weights[kLaneColumns];
  if (w.cell_bytes > 0) {
    const unsigned char* cell = w.codes + (tile * w.tile_cells + step / kCellSteps) * w.cell_bytes;
    const int in_cell = static_cast<int>(step % kCellSteps);
    const bool second = w.cell_bytes > F::kCellCodeBytes + F::kCellGroupBytes && in_cell >= 2;
    const auto* source = reinterpret_cast<const __half*>(cell + F::kCellCodeBytes +
                                                         (second ? F::kCellGroupBytes : 0)) +
                         lane % 8 * 2 * F::kParams + lane % 16 / 8;
#pragma unroll
    for (int k = 0; k < F::kParams; ++k) params[k] = __half2float(source[2 * k]);
    const CellCodes<F> codes(cell, in_cell, lane);
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) weights[j] = weight_of<F>(params, codes.code(j));
  } else {
    load_params<F>(w, tile, columns.group, lane % 16, params);
    const StepCodes<F> codes(w.codes + (tile * w.tile_steps + step) * F::kStepBytes, lane);
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) weights[j] = weight_of<F>(params, codes.code(j));
  }
  visit(columns, weights);
}

}  // namespace d2q::cuda
