// The packed kernels in plain C++: the specification of the other tables.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/half.h"
#include "codec/packed_atoms.h"
#include "codec/packed_geometry.h"
#include "codec/packed_matrix.h"
#include "kernels/packed_kernels.h"

namespace d2q {
namespace {

constexpr PackedKind kind_of(PackedFormat format) {
  return is_sign_planes(format) ? PackedKind::kSignPlanes : PackedKind::kUniform;
}

/// The largest Σ |x| / kQuadLevels of a quad, added up in the order in which vectors halve. Scaled
/// by a power of two first, so that it cannot overflow and a fused multiply-add gives the same.
float largest_quad(const float* x, int64_t size) noexcept {
  const auto part = [](float value) { return std::fabs(value) * (1.0f / 65536.0f); };
  float largest = 0.0f;
  for (int64_t step = 0; step < size; step += kStepColumns) {
    for (int b = 0; b < 4; ++b) {
      const auto pair = [&](int64_t p) {
        const float* columns = x + step + 4 * p + b;
        return part(columns[0]) + part(columns[4]);
      };
      const float pairs[] = {pair(0), pair(2), pair(4), pair(6)};
      largest = std::max({largest, pairs[0] + pairs[1], pairs[2] + pairs[3],  // of an atom
                          pairs[0] + pairs[2], pairs[1] + pairs[3]});         // of both
    }
  }
  return largest * (65536.0f / kQuadLevels);
}

void quantize_block(const float* x, int64_t n_steps, int8_t* high, int8_t* low, float* scale,
                    float* sum) noexcept {
  const int64_t size = n_steps * kStepColumns;
  // As integers, magnitudes order like floats, with Inf and NaN above every finite one.
  uint32_t largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    if (magnitude > largest) largest = magnitude;
  }
  const float max = std::bit_cast<float>(largest);
  const bool finite = largest < 0x7f800000u;
  const bool zero = !finite || max < kSmallestActivation;
  float unit = max * (1.0f / (low == nullptr ? kLevels8 : kLevels16));
  if (low != nullptr && !zero) unit = std::max(unit, largest_quad(x, size));
  const float inverse = zero ? 0.0f : 1.0f / unit;
  int32_t total = 0;
  for (int64_t i = 0; i < size; ++i) {
    const auto q = static_cast<int32_t>(finite ? std::nearbyint(x[i] * inverse) : 0.0f);
    total += q;
    const int32_t high_digit = low == nullptr ? q : (q + 128) >> 8;
    high[i] = static_cast<int8_t>(high_digit);
    if (low != nullptr) low[i] = static_cast<int8_t>(q - 256 * high_digit);
  }
  *scale = finite ? (zero ? 0.0f : unit) : std::bit_cast<float>(0x7fc00000u);
  *sum = static_cast<float>(total);
}

/// Dot products of one block, for the 16 rows of a tile and each plane.
template <PackedFormat kFormat>
struct BlockDots {
  static constexpr int kPlanes = is_sign_planes(kFormat) ? bits_of(kFormat) : 1;
  int32_t dots[kPlanes][kTileRows] = {};

  /// q of the step's columns, from its digits; x_low may be null.
  void add_step(const uint8_t* step, const int8_t* x_high, const int8_t* x_low) {
    constexpr int kBits = bits_of(kFormat);
    for (int64_t column = 0; column < kStepColumns; ++column) {
      const int32_t q = x_low == nullptr ? x_high[column] : 256 * x_high[column] + x_low[column];
      for (int64_t row = 0; row < kTileRows; ++row) {
        const int code = read_code(kBits, step, row, column);
        for (int plane = 0; plane < kPlanes; ++plane) {
          dots[plane][row] += (is_sign_planes(kFormat) ? (code >> plane) & 1 : code) * q;
        }
      }
    }
  }
};

template <PackedFormat kFormat>
void mat_vec(const PackedTile& tile, const QuantizedTokens& x, float* y) noexcept {
  constexpr int64_t kStepBytes = step_bytes(bits_of(kFormat));
  constexpr int kParams = n_params_of(kFormat);
  for (int64_t token = 0; token < x.n_tokens; ++token) {
    float* out = y + token * kTileRows;
    for (int64_t row = 0; row < kTileRows; ++row) out[row] = 0.0f;
    const uint8_t* step = tile.codes;
    int64_t column = token * x.token_stride;
    int64_t block = token * x.block_stride;
    for (int64_t group = 0; group < tile.n_groups; ++group) {
      const uint16_t* params = tile.scales + group * kParams * kTileRows;
      int64_t left = group + 1 == tile.n_groups ? tile.last_group_steps : tile.group_steps;
      for (; left > 0; ++block) {
        const int64_t n_steps = left < kBlockSteps ? left : kBlockSteps;
        left -= n_steps;
        BlockDots<kFormat> block_dots;
        for (int64_t s = 0; s < n_steps; ++s) {
          block_dots.add_step(step, x.high + column, x.low == nullptr ? nullptr : x.low + column);
          step += kStepBytes;
          column += kStepColumns;
        }
        for (int64_t row = 0; row < kTileRows; ++row) {
          if constexpr (is_sign_planes(kFormat)) {
            for (int k = 0; k < kParams; ++k) {
              const float r = to_float(Half{params[k * kTileRows + row]}) * x.scale[block];
              const auto dot = static_cast<float>(block_dots.dots[k][row]);
              out[row] = std::fma(r, std::fma(2.0f, dot, -x.sum[block]), out[row]);
            }
          } else {
            const float scale = to_float(Half{params[row]}) * x.scale[block];
            const float zero = to_float(Half{params[kTileRows + row]});
            const auto dot = static_cast<float>(block_dots.dots[0][row]);
            out[row] = std::fma(scale, std::fma(-zero, x.sum[block], dot), out[row]);
          }
        }
      }
    }
  }
}

template <PackedFormat kFormat, typename Out, typename Convert>
void dequantize(const uint8_t* codes, const uint16_t* scales, int64_t n_steps, Out* out,
                int64_t row_stride, Convert convert) {
  constexpr int kBits = bits_of(kFormat);
  constexpr int kParams = n_params_of(kFormat);
  Out levels[1 << kBits];
  for (int64_t row = 0; row < kTileRows; ++row) {
    float params[kParams];
    for (int k = 0; k < kParams; ++k) params[k] = to_float(Half{scales[k * kTileRows + row]});
    for (int code = 0; code < (1 << kBits); ++code) {
      levels[code] = convert(weight_of(kind_of(kFormat), kBits, params, code));
    }
    for (int64_t c = 0; c < n_steps * kStepColumns; ++c) {
      const uint8_t* step = codes + c / kStepColumns * step_bytes(kBits);
      out[row * row_stride + c] = levels[read_code(kBits, step, row, c % kStepColumns)];
    }
  }
}

template <PackedFormat kFormat>
void dequantize_f32(const uint8_t* codes, const uint16_t* scales, int64_t n_steps, float* out,
                    int64_t row_stride) noexcept {
  dequantize<kFormat>(codes, scales, n_steps, out, row_stride, [](float w) { return w; });
}

template <PackedFormat kFormat>
void dequantize_bf16(const uint8_t* codes, const uint16_t* scales, int64_t n_steps, uint16_t* out,
                     int64_t row_stride) noexcept {
  dequantize<kFormat>(codes, scales, n_steps, out, row_stride,
                      [](float w) { return to_bfloat16(w).bits; });
}

}  // namespace

const PackedKernels kPackedKernelsScalar = {
    "scalar",
    quantize_block,
    {mat_vec<kUniform2>, mat_vec<kUniform3>, mat_vec<kUniform4>, mat_vec<kUniform6>,
     mat_vec<kUniform8>, mat_vec<kSignPlanes2>, mat_vec<kSignPlanes3>},
    {dequantize_f32<kUniform2>, dequantize_f32<kUniform3>, dequantize_f32<kUniform4>,
     dequantize_f32<kUniform6>, dequantize_f32<kUniform8>, dequantize_f32<kSignPlanes2>,
     dequantize_f32<kSignPlanes3>},
    {dequantize_bf16<kUniform2>, dequantize_bf16<kUniform3>, dequantize_bf16<kUniform4>,
     dequantize_bf16<kUniform6>, dequantize_bf16<kUniform8>, dequantize_bf16<kSignPlanes2>,
     dequantize_bf16<kSignPlanes3>}};

}  // namespace d2q
