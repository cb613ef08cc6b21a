// Every ISA's table against the scalar one: the same bits.
#include "kernels/packed_kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "codec/packed_geometry.h"
#include "kernels/isa.h"
#include "kernels/packed_test_data.h"

namespace d2q {
namespace {

struct NamedFormat {
  PackedFormat format;
  PackedKind kind;
  int bits;
};

constexpr NamedFormat kFormats[] = {
    {kUniform2, PackedKind::kUniform, 2},      {kUniform3, PackedKind::kUniform, 3},
    {kUniform4, PackedKind::kUniform, 4},      {kUniform6, PackedKind::kUniform, 6},
    {kUniform8, PackedKind::kUniform, 8},      {kSignPlanes2, PackedKind::kSignPlanes, 2},
    {kSignPlanes3, PackedKind::kSignPlanes, 3}};

/// Gaussian values with a few large outliers, as activations have.
std::vector<float> random_activations(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) {
    value = static_cast<float>(rng.gaussian() * (rng.below(64) == 0 ? 20.0 : 1.0));
  }
  return x;
}

struct Block {
  std::vector<int8_t> high = std::vector<int8_t>(128);
  std::vector<int8_t> low = std::vector<int8_t>(128);
  float scale = 0.0f;
  float sum = 0.0f;
};

Block quantized(const PackedKernels& kernels, const std::vector<float>& x, bool low = true) {
  Block block;
  kernels.quantize_block(x.data(), static_cast<int64_t>(x.size()) / 32, block.high.data(),
                         low ? block.low.data() : nullptr, &block.scale, &block.sum);
  return block;
}

class PackedKernelsTest : public testing::TestWithParam<Isa> {
 protected:
  const PackedKernels& kernels() const { return packed_kernels(GetParam()); }
};

TEST_P(PackedKernelsTest, QuantizedActivationsHaveTheSameBits) {
  for (const int64_t n : {32, 64, 96, 128}) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      std::vector<float> x = random_activations(n, seed);
      // Powers of ten down to where the block counts as zero.
      for (float& value : x) value *= std::pow(10.0f, 3.0f - static_cast<float>(seed));
      for (const bool low : {false, true}) {
        const Block expected = quantized(kPackedKernelsScalar, x, low);
        const Block found = quantized(kernels(), x, low);
        ASSERT_EQ(found.high, expected.high);
        ASSERT_EQ(found.low, expected.low);
        ASSERT_EQ(std::bit_cast<uint32_t>(found.scale), std::bit_cast<uint32_t>(expected.scale));
        ASSERT_EQ(std::bit_cast<uint32_t>(found.sum), std::bit_cast<uint32_t>(expected.sum));
      }
    }
  }
}

TEST_P(PackedKernelsTest, QuantizedActivationsAreWithinHalfAStep) {
  const std::vector<float> x = random_activations(128, 3);
  const Block block = quantized(kernels(), x);
  float max = 0.0f;
  for (const float value : x) max = std::max(max, std::fabs(value));
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = block.scale * (256.0 * block.high[i] + block.low[i]);
    // Half a step, and three roundings of f32 on the way to the integer.
    EXPECT_NEAR(value, x[i], 0.5 * block.scale + max * 4 * 6e-8) << i;
  }
}

TEST_P(PackedKernelsTest, QuantizedGaussianActivationsAreNearAndTheirQuadsFitInTwoBytes) {
  double error = 0.0, norm = 0.0;
  Rng rng(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> x(128);
    for (float& value : x) value = static_cast<float>(rng.gaussian());
    // Where one value or one quad decides the scale.
    if (round % 10 == 0) x[17] = 100.0f;
    if (round % 10 == 1) x[17] = x[21] = x[25] = x[29] = 100.0f;
    if (round % 10 == 2) x[41] = x[45] = x[57] = x[61] = 100.0f;
    const Block block = quantized(kernels(), x);
    std::vector<int> quads(64);  // of atoms, of both atoms of a step
    for (size_t i = 0; i < x.size(); ++i) {
      const int q = 256 * block.high[i] + block.low[i];
      quads[i / 16 * 4 + i % 4] += std::abs(q);
      quads[32 + i / 32 * 8 + i / 8 % 2 * 4 + i % 4] += std::abs(q);
      if (round % 10 < 3) continue;
      error += std::pow(static_cast<double>(block.scale) * q - x[i], 2.0);
      norm += std::pow(x[i], 2.0);
    }
    EXPECT_LT(*std::ranges::max_element(quads), 65536);
  }
  EXPECT_LT(std::sqrt(error / norm), 3e-5);
}

TEST_P(PackedKernelsTest, EightBitActivationsAreWithinHalfAStep) {
  const std::vector<float> x = random_activations(128, 3);
  const Block block = quantized(kernels(), x, false);
  float max = 0.0f;
  for (const float value : x) max = std::max(max, std::fabs(value));
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(block.scale * block.high[i], x[i], max * (0.5 / 127 + 4 * 6e-8)) << i;
}

TEST_P(PackedKernelsTest, NonFiniteActivationsMakeTheScaleNan) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(64, 1.0f);
    x[37] = bad;
    EXPECT_TRUE(std::isnan(quantized(kernels(), x).scale));
  }
}

TEST_P(PackedKernelsTest, ZeroActivationsAreZero) {
  const Block block = quantized(kernels(), std::vector<float>(64, -0.0f));
  EXPECT_EQ(block.scale, 0.0f);
  EXPECT_EQ(block.sum, 0.0f);
}

/// Digits at their extremes for the first two seeds: every sum at the bound that accumulators are
/// sized by. `looked_up`: quads below 65536 (seeds 0 and 1: at it), as lookups need.
struct Tokens {
  std::vector<int8_t> high, low;
  std::vector<float> scale, sum;
  QuantizedTokens view;

  Tokens(const PackedGeometry& geometry, int64_t n_tokens, uint64_t seed, bool looked_up = false) {
    const int64_t padded = geometry.tile_steps * 32;
    const auto blocks_of = [](int64_t steps) { return (steps + kBlockSteps - 1) / kBlockSteps; };
    const int64_t blocks = (geometry.n_groups - 1) * blocks_of(geometry.group_steps) +
                           blocks_of(geometry.last_group_steps);
    Rng rng(seed);
    const auto digit = [&](int lowest) {
      if (seed == 0) return int8_t{127};
      if (seed == 1) return static_cast<int8_t>(lowest);
      const int n_values = 128 - lowest;
      return static_cast<int8_t>(static_cast<int>(rng.below(static_cast<uint64_t>(n_values))) +
                                 lowest);
    };
    for (int64_t i = 0; i < n_tokens * padded; ++i) {
      high.push_back(digit(-127));
      low.push_back(digit(-128));
      if (!looked_up) continue;
      const bool large = i / 4 % 2 == 0;  // two of each quad
      const int q = seed == 0   ? (large ? 32639 : 128)
                    : seed == 1 ? (large ? -32639 : -128)
                                : (256 * high.back() + low.back()) / 2;
      high.back() = static_cast<int8_t>((q + 128) >> 8);
      low.back() = static_cast<int8_t>(q - 256 * high.back());
    }
    for (int64_t step = 0, token = 0; token < n_tokens; ++token) {
      for (int64_t group = 0; group < geometry.n_groups; ++group) {
        for (int64_t left = geometry.steps_of(group); left > 0; left -= kBlockSteps) {
          int64_t total = 0;
          for (const int64_t end = step + std::min(left, kBlockSteps); step < end; ++step) {
            for (auto i = static_cast<size_t>(32 * step); i < static_cast<size_t>(32 * step) + 32;
                 ++i)
              total += 256 * high[i] + low[i];
          }
          sum.push_back(static_cast<float>(total));
          scale.push_back(static_cast<float>(rng.uniform() + 0.1));
        }
      }
    }
    view = {n_tokens, high.data(), low.data(), scale.data(), sum.data(), padded, blocks};
  }
};

TEST_P(PackedKernelsTest, MatVecHasTheBitsOfTheScalarOne) {
  for (const NamedFormat& format : kFormats) {
    for (const auto& [cols, group_size] : {std::pair<int64_t, int64_t>{128, 128},
                                           {256, 128},
                                           {96, 32},
                                           {160, 64},
                                           {200, 100},
                                           {97, 1},
                                           {1000, 1000},
                                           {513, 256}}) {
      const PackedLayout layout{format.kind, format.bits, 16, cols, group_size};
      for (uint64_t seed = 0; seed < 4; ++seed) {
        PackedStorage w = random_packed(layout, seed);
        if (seed < 2) std::fill(w.codes.begin(), w.codes.end(), uint8_t{0xff});
        const PackedGeometry geometry = geometry_of(layout);
        const PackedTile tile = {w.codes.data(), &w.scales.data()->bits, geometry.n_groups,
                                 geometry.group_steps, geometry.last_group_steps};
        for (int64_t n_tokens = 1; n_tokens <= kTokensPerPass; ++n_tokens) {
          Tokens tokens(geometry, n_tokens, seed);
          for (const int8_t* low : {tokens.view.low, static_cast<const int8_t*>(nullptr)}) {
            tokens.view.low = low;
            std::vector<float> expected(static_cast<size_t>(n_tokens) * 16);
            std::vector<float> found(expected.size());
            kPackedKernelsScalar.mat_vec[format.format](tile, tokens.view, expected.data());
            kernels().mat_vec[format.format](tile, tokens.view, found.data());
            for (size_t i = 0; i < found.size(); ++i) {
              ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
                  << "format " << format.format << " cols " << cols << " group " << group_size
                  << " tokens " << n_tokens << " seed " << seed << " at " << i
                  << (low == nullptr ? " a8" : " a16");
            }
          }
        }
      }
    }
  }
}

TEST_P(PackedKernelsTest, LookedUpSumsHaveTheBitsOfTheScalarProducts) {
  const LookupKernels* lookup = kernels().lookup;
  if (lookup == nullptr) GTEST_SKIP() << "no lookups under " << kernels().name;
  for (const int planes : {2, 3}) {
    for (const auto& [cols, group_size] : {std::pair<int64_t, int64_t>{128, 128},
                                           {384, 128},
                                           {96, 32},
                                           {160, 64},
                                           {97, 1},
                                           {1000, 1000},
                                           {513, 256}}) {
      const PackedLayout layout{PackedKind::kSignPlanes, planes, 48, cols, group_size};
      for (uint64_t run = 0; run < 8; ++run) {
        const uint64_t seed = run / 2;
        const bool eight_bits = run % 2 == 1;
        if (eight_bits && !lookup->for_8_bit_digits) continue;
        PackedStorage w = random_packed(layout, seed);
        if (seed < 2) std::fill(w.codes.begin(), w.codes.end(), uint8_t{0xff});
        const PackedGeometry geometry = geometry_of(layout);
        Tokens tokens(geometry, 1, seed, true);
        if (eight_bits) tokens.view.low = nullptr;
        // Tables for three planes serve matrices of two.
        const int table_planes = planes == 2 && run >= 4 ? 3 : planes;
        const int64_t stride = lookup->table_bytes[table_planes - 2];
        std::vector<uint8_t> tables(tokens.high.size() / 32 * static_cast<size_t>(stride));
        std::vector<float> offsets;
        for (int64_t group = 0, step = 0; group < geometry.n_groups; ++group) {
          for (int64_t left = geometry.steps_of(group); left > 0; left -= kBlockSteps) {
            const int64_t n_steps = std::min(left, kBlockSteps);
            const int32_t excess = lookup->build_tables(
                tokens.view.high + 32 * step, eight_bits ? nullptr : tokens.view.low + 32 * step,
                n_steps, table_planes, tables.data() + step * stride);
            offsets.push_back(tokens.view.sum[offsets.size()] + 2.0f * static_cast<float>(excess));
            step += n_steps;
          }
        }
        tokens.view.tables = tables.data();
        tokens.view.table_stride = stride;
        tokens.view.table_offset = offsets.data();
        std::vector<float> expected(48), found(48);
        const auto tile = [&](int64_t i) {
          return PackedTile{w.codes.data() + i * geometry.tile_code_bytes,
                            &w.scales[static_cast<size_t>(i * geometry.tile_scales)].bits,
                            geometry.n_groups, geometry.group_steps, geometry.last_group_steps};
        };
        const PackedFormat format = planes == 2 ? kSignPlanes2 : kSignPlanes3;
        std::vector<uint8_t> arranged(static_cast<size_t>(geometry.tile_code_bytes));
        for (int64_t i = 0; i < 3; ++i) {
          kPackedKernelsScalar.mat_vec[format](tile(i), tokens.view, expected.data() + 16 * i);
          PackedTile own = tile(i);
          if (const auto arrange = lookup->arrange[planes - 2]) {
            arrange(own.codes, geometry.tile_steps, arranged.data());
            own.codes = arranged.data();
          }
          lookup->mat_vec[planes - 2](own, tokens.view, found.data() + 16 * i);
        }
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
              << planes << " planes, cols " << cols << " group " << group_size << " seed " << seed
              << " at " << i << (eight_bits ? " a8" : " a16");
        }
      }
    }
  }
}

TEST_P(PackedKernelsTest, ArrangedCodesAreOtherBitsOfTheSameStepAndComeBack) {
  const LookupKernels* lookup = kernels().lookup;
  if (lookup == nullptr || lookup->arrange[0] == nullptr) {
    GTEST_SKIP() << kernels().name << " looks codes up as they are stored";
  }
  for (const int planes : {2, 3}) {
    const auto n_bytes = static_cast<size_t>(step_bytes(planes));
    const auto arranged = [&](const std::vector<uint8_t>& codes, int64_t n_steps) {
      std::vector<uint8_t> result(codes.size());
      lookup->arrange[planes - 2](codes.data(), n_steps, result.data());
      return result;
    };
    // Each bit has a place of its own: 1024 or 1536 of them, all different.
    std::vector<bool> taken(8 * n_bytes);
    for (size_t bit = 0; bit < 8 * n_bytes; ++bit) {
      std::vector<uint8_t> codes(n_bytes);
      codes[bit / 8] = static_cast<uint8_t>(1 << bit % 8);
      const std::vector<uint8_t> found = arranged(codes, 1);
      size_t n_set = 0, place = 0;
      for (size_t i = 0; i < 8 * n_bytes; ++i) {
        if (found[i / 8] >> i % 8 & 1) ++n_set, place = i;
      }
      ASSERT_EQ(n_set, 1) << "bit " << bit;
      ASSERT_FALSE(taken[place]) << "bit " << bit << " at " << place;
      taken[place] = true;
    }
    const PackedStorage w =
        random_packed({PackedKind::kSignPlanes, planes, 16, 7 * kStepColumns, kStepColumns}, 4);
    std::vector<uint8_t> back(w.codes.size());
    lookup->restore[planes - 2](arranged(w.codes, 7).data(), 7, back.data());
    EXPECT_EQ(back, w.codes);
  }
}

TEST_P(PackedKernelsTest, DequantizedTilesHaveTheBitsOfTheCodec) {
  for (const NamedFormat& format : kFormats) {
    for (const int64_t cols : {32, 96, 128}) {
      const PackedLayout layout{format.kind, format.bits, 16, cols, cols};
      const PackedStorage w = random_packed(layout, 11);
      const int64_t stride = cols + 5;
      const auto size = static_cast<size_t>(16 * stride);
      std::vector<float> expected(size, 7.0f);
      std::vector<float> found(size, 7.0f);
      std::vector<uint16_t> rounded(size, 7);
      dequantize_tile(w.view(), 0, 0, expected.data(), stride);
      const uint16_t* scales = &w.scales.data()->bits;
      kernels().dequantize_f32[format.format](w.codes.data(), scales, cols / 32, found.data(),
                                              stride);
      kernels().dequantize_bf16[format.format](w.codes.data(), scales, cols / 32, rounded.data(),
                                               stride);
      for (int64_t r = 0; r < 16; ++r) {
        for (int64_t c = 0; c < stride; ++c) {
          const auto i = static_cast<size_t>(r * stride + c);
          ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
              << "format " << format.format << " row " << r << " column " << c;
          ASSERT_EQ(rounded[i], c < cols ? to_bfloat16(expected[i]).bits : 7)
              << "format " << format.format << " row " << r << " column " << c;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, PackedKernelsTest, testing::ValuesIn(available_isas()),
                         [](const auto& instance) { return std::string(name_of(instance.param)); });

}  // namespace
}  // namespace d2q
