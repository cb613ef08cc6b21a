#include "codec/packed_matrix.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "codec/packed_geometry.h"

namespace d2q {
namespace {

struct Packed {
  PackedLayout layout;
  std::vector<uint8_t> codes;  // [rows, cols]
  std::vector<float> params;   // [rows, n_groups * n_params], exact in fp16
  std::vector<uint8_t> bytes;
  std::vector<Half> scales;
  PackedView view() const { return {layout, bytes, scales}; }
};

Packed random_packed(const PackedLayout& layout, uint64_t seed) {
  Packed packed;
  packed.layout = layout;
  Rng rng(seed);
  packed.codes.resize(static_cast<size_t>(layout.rows * layout.cols));
  for (uint8_t& code : packed.codes) code = static_cast<uint8_t>(rng.below(1u << layout.bits));
  packed.params.resize(static_cast<size_t>(layout.rows * layout.n_groups() * layout.n_params()));
  for (float& value : packed.params) {
    value = to_float(to_half(static_cast<float>(rng.gaussian())));
  }
  packed.bytes.resize(static_cast<size_t>(codes_bytes(layout)), 0xff);
  packed.scales.resize(static_cast<size_t>(scales_count(layout)), Half{0xffff});
  pack(layout, packed.codes, packed.params, packed.bytes, packed.scales);
  return packed;
}

using LayoutCase = std::tuple<PackedKind, int, int64_t, int64_t, int64_t>;

class PackedMatrixTest : public testing::TestWithParam<LayoutCase> {
 protected:
  static PackedLayout layout() {
    const auto [kind, bits, rows, cols, group_size] = GetParam();
    return {kind, bits, rows, cols, group_size};
  }
};

TEST_P(PackedMatrixTest, UnpackReturnsWhatWasPacked) {
  const Packed packed = random_packed(layout(), 7);
  std::vector<uint8_t> codes(packed.codes.size());
  std::vector<float> params(packed.params.size());
  unpack(packed.view(), codes, params);
  EXPECT_EQ(codes, packed.codes);
  EXPECT_EQ(params, packed.params);
}

TEST_P(PackedMatrixTest, DequantizeHasTheBitsOfUnpackAndArithmetic) {
  const Packed packed = random_packed(layout(), 8);
  const PackedLayout& shape = packed.layout;
  std::vector<float> weights(packed.codes.size());
  dequantize(packed.view(), weights);
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t c = 0; c < shape.cols; ++c) {
      const auto i = static_cast<size_t>(r * shape.cols + c);
      const int64_t group = c / shape.group_size;
      const float* params =
          packed.params.data() + (r * shape.n_groups() + group) * shape.n_params();
      float expected = 0.0f;
      if (shape.kind == PackedKind::kUniform) {
        expected = params[0] * (static_cast<float>(packed.codes[i]) - params[1]);
      } else {
        expected = (packed.codes[i] & 1) ? params[0] : -params[0];
        expected = expected + ((packed.codes[i] & 2) ? params[1] : -params[1]);
        if (shape.bits == 3) expected = expected + ((packed.codes[i] & 4) ? params[2] : -params[2]);
      }
      ASSERT_EQ(std::bit_cast<uint32_t>(weights[i]), std::bit_cast<uint32_t>(expected))
          << "row " << r << " column " << c;
    }
  }
}

TEST_P(PackedMatrixTest, PaddingIsZero) {
  // Every code set to its largest value: the set bits of the packed bytes are those codes' alone.
  const PackedLayout shape = layout();
  const std::vector<uint8_t> codes(static_cast<size_t>(shape.rows * shape.cols),
                                   static_cast<uint8_t>((1 << shape.bits) - 1));
  const std::vector<float> params(
      static_cast<size_t>(shape.rows * shape.n_groups() * shape.n_params()), 1.0f);
  std::vector<uint8_t> bytes(static_cast<size_t>(codes_bytes(shape)), 0xff);
  std::vector<Half> scales(static_cast<size_t>(scales_count(shape)), Half{0xffff});
  pack(shape, codes, params, bytes, scales);
  int64_t set_bits = 0;
  for (const uint8_t byte : bytes) set_bits += std::popcount(byte);
  EXPECT_EQ(set_bits, shape.rows * shape.cols * shape.bits);
  int64_t non_zero = 0;
  for (const Half scale : scales) non_zero += scale.bits != 0;
  EXPECT_EQ(non_zero, static_cast<int64_t>(params.size()));
}

TEST_P(PackedMatrixTest, ARowIsTheRowOfTheWhole) {
  const Packed packed = random_packed(layout(), 10);
  std::vector<float> weights(packed.codes.size());
  dequantize(packed.view(), weights);
  const auto cols = static_cast<size_t>(packed.layout.cols);
  std::vector<float> row(cols);
  for (int64_t r = 0; r < packed.layout.rows; ++r) {
    dequantize_row(packed.view(), r, row);
    ASSERT_TRUE(std::equal(row.begin(), row.end(), weights.begin() + r * packed.layout.cols)) << r;
  }
}

std::vector<LayoutCase> layout_cases() {
  std::vector<LayoutCase> cases;
  const std::vector<std::pair<PackedKind, int>> formats = {
      {PackedKind::kUniform, 2},   {PackedKind::kUniform, 3}, {PackedKind::kUniform, 4},
      {PackedKind::kUniform, 6},   {PackedKind::kUniform, 8}, {PackedKind::kSignPlanes, 2},
      {PackedKind::kSignPlanes, 3}};
  for (const auto& [kind, bits] : formats) {
    for (const auto& [rows, cols, group_size] :
         {std::tuple<int64_t, int64_t, int64_t>{16, 128, 128},
          {17, 256, 128},
          {1, 1, 1},
          {15, 31, 64},
          {33, 130, 32},
          {16, 97, 1},
          {31, 200, 100},
          {5, 64, 4096},
          {48, 65, 33}}) {
      cases.emplace_back(kind, bits, rows, cols, group_size);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Layouts, PackedMatrixTest, testing::ValuesIn(layout_cases()));

TEST(PackedAtomsTest, EveryCodeAtEveryPlaceOfAStepReadsBackAlone) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    for (int64_t row = 0; row < kTileRows; ++row) {
      for (int64_t column = 0; column < kStepColumns; ++column) {
        for (int code = 0; code < (1 << bits); ++code) {
          std::vector<uint8_t> step(static_cast<size_t>(step_bytes(bits)));
          write_code(bits, step.data(), row, column, static_cast<uint8_t>(code));
          ASSERT_EQ(read_code(bits, step.data(), row, column), code);
          int set_bits = 0;
          for (const uint8_t byte : step) set_bits += std::popcount(byte);
          ASSERT_EQ(set_bits, std::popcount(static_cast<unsigned>(code)));
        }
      }
    }
  }
}

TEST(PackedAtomsTest, PlacesOfAStepDoNotOverlap) {
  for (const int bits : {2, 3, 4, 6, 8}) {
    std::vector<uint8_t> step(static_cast<size_t>(step_bytes(bits)));
    const auto ones = static_cast<uint8_t>((1 << bits) - 1);
    for (int64_t row = 0; row < kTileRows; ++row) {
      for (int64_t column = 0; column < kStepColumns; ++column) {
        ASSERT_EQ(read_code(bits, step.data(), row, column), 0);
        write_code(bits, step.data(), row, column, ones);
      }
    }
    for (const uint8_t byte : step) ASSERT_EQ(byte, 0xff);
  }
}

// Bytes written by hand from the drawing in packed_matrix.h, so that an old file always reads.
// Matrix [3, 35], groups of 32, code(r, c) = (7r + 3c + floor(r c / 5)) mod 2^bits; of each 64-byte
// atom the first 12 bytes (rows 0 to 2), the others being zero.
constexpr int64_t kGoldenRows = 3;
constexpr int64_t kGoldenCols = 35;
constexpr const char* kGolden2 =
    "00ffaa554f3ef9e49e8d487400ffaa553ef9e493783723d2000302000100030002020100"
    "000000000000000000000000";
constexpr const char* kGolden3 =
    "00ffaa554f3ef9e49e8d487400ffaa553ef9e493783723d2aaaa55aa2952a54ad936c9b2"
    "000302000100030002020100000000000000000000000000000001000100000000010000";
constexpr const char* kGolden4 =
    "c0f32659377aadd0bef12458487baed1d003377a69acd013c0f326597aadd00324578bce"
    "487baed103377aaddf034679000306000d0003000a0e0100000000000000000000000000"
    "000000000000000000000000000000000000000000000000";
constexpr const char* kGolden8 =
    "00030609070a0d100e1114180c0f121513171a1d1b1f2225181b1e212023272a292c3033"
    "24272a2d2d303337363a3d41303336393a3d404344474b4e3c3f4245474a4d505255585c"
    "484b4e5153575a5d5f63666954575a5d6063676a6d707477606366006d7073007a7e8100"
    "000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000";

std::vector<uint8_t> golden_bytes(const std::string& hex) {
  std::vector<uint8_t> bytes(hex.size() / 24 * 64);
  for (size_t i = 0; i < hex.size() / 2; ++i) {
    bytes[i / 12 * 64 + i % 12] =
        static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  return bytes;
}

TEST(PackedMatrixTest, GoldenBytesReadAndWrite) {
  for (const auto& [bits, hex] :
       {std::pair{2, kGolden2}, {3, kGolden3}, {4, kGolden4}, {8, kGolden8}}) {
    const PackedLayout layout{PackedKind::kUniform, bits, kGoldenRows, kGoldenCols, 32};
    std::vector<uint8_t> codes(kGoldenRows * kGoldenCols);
    for (int64_t r = 0; r < kGoldenRows; ++r) {
      for (int64_t c = 0; c < kGoldenCols; ++c) {
        codes[static_cast<size_t>(r * kGoldenCols + c)] =
            static_cast<uint8_t>((7 * r + 3 * c + r * c / 5) & ((1 << bits) - 1));
      }
    }
    // Row r, group g: scale (r + 1) * 0.5, zero g + 1; a scale block is 16 fp16, scale then zero.
    std::vector<Half> scales(2 * 2 * 16);
    std::vector<float> params;
    const uint16_t scale_bits[3] = {0x3800, 0x3c00, 0x3e00};
    const uint16_t zero_bits[2] = {0x3c00, 0x4000};
    for (size_t r = 0; r < 3; ++r) {
      for (size_t g = 0; g < 2; ++g) {
        scales[g * 32 + r] = {scale_bits[r]};
        scales[g * 32 + 16 + r] = {zero_bits[g]};
        params.push_back(0.5f * static_cast<float>(r + 1));
        params.push_back(static_cast<float>(g + 1));
      }
    }
    const std::vector<uint8_t> bytes = golden_bytes(hex);
    std::vector<uint8_t> read_codes(codes.size());
    std::vector<float> read_params(params.size());
    unpack({layout, bytes, scales}, read_codes, read_params);
    EXPECT_EQ(read_codes, codes) << bits << " bits";
    EXPECT_EQ(read_params, params);
    std::vector<uint8_t> written(bytes.size());
    std::vector<Half> written_scales(scales.size());
    pack(layout, codes, params, written, written_scales);
    EXPECT_EQ(written, bytes) << bits << " bits";
    EXPECT_EQ(written_scales, scales);
  }
}

TEST(PackedMatrixTest, SizesFollowTheDocumentedFormula) {
  // 4096 x 14336, 2 bits, groups of 128: 2.25 bits a weight.
  const PackedLayout planes{PackedKind::kSignPlanes, 2, 4096, 14336, 128};
  EXPECT_EQ(codes_bytes(planes), 4096 * 14336 / 4);
  EXPECT_EQ(scales_count(planes), 4096 * 112 * 2);
  const PackedLayout ragged{PackedKind::kSignPlanes, 3, 17, 130, 100};  // 4 + 1 steps, 2 tiles
  EXPECT_EQ(codes_bytes(ragged), 2 * 5 * 64 * 3);
  EXPECT_EQ(scales_count(ragged), 2 * 2 * 3 * 16);
}

ErrorCode code_of_validate(const PackedLayout& layout) {
  try {
    validate(layout, "blk.0.w");
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("blk.0.w"), std::string::npos);
    return error.code();
  }
  ADD_FAILURE() << "accepted";
  return ErrorCode::kIo;
}

TEST(PackedMatrixTest, ImpossibleLayoutsAreRefusedByName) {
  const PackedLayout good{PackedKind::kUniform, 4, 16, 32, 32};
  EXPECT_NO_THROW(validate(good, "blk.0.w"));
  auto with = [&](auto change) {
    PackedLayout layout = good;
    change(layout);
    return layout;
  };
  const std::vector<PackedLayout> bad = {
      with([](PackedLayout& l) { l.bits = 5; }),
      with([](PackedLayout& l) { l.bits = 0; }),
      with([](PackedLayout& l) { l.kind = PackedKind::kSignPlanes; }),
      with([](PackedLayout& l) { l.kind = static_cast<PackedKind>(7); }),
      with([](PackedLayout& l) { l.rows = 0; }),
      with([](PackedLayout& l) { l.cols = -1; }),
      with([](PackedLayout& l) { l.group_size = 0; }),
      with([](PackedLayout& l) { l.rows = int64_t{1} << 31; }),
      with([](PackedLayout& l) { l.group_size = std::numeric_limits<int64_t>::max(); })};
  for (const PackedLayout& layout : bad) {
    EXPECT_EQ(code_of_validate(layout), ErrorCode::kInvalidArgument);
  }
}

TEST(PackedMatrixTest, SizeBeyond63BitsIsCorrupt) {
  // Groups of one column are padded 32-fold: 2^27 tiles * 2^31 steps * 512 bytes overflow.
  const PackedLayout huge{PackedKind::kUniform, 8, kMaxPackedDimension, kMaxPackedDimension, 1};
  try {
    codes_bytes(huge);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
  }
}

TEST(PackedMatrixTest, ParameterBeyondFp16IsNamed) {
  const PackedLayout layout{PackedKind::kSignPlanes, 2, 2, 64, 32};
  const std::vector<uint8_t> codes(128);
  std::vector<uint8_t> bytes(static_cast<size_t>(codes_bytes(layout)));
  std::vector<Half> scales(static_cast<size_t>(scales_count(layout)));
  for (const float bad : {1e5f, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> params(8, 1.0f);
    params[6] = bad;  // row 1, group 1
    try {
      pack(layout, codes, params, bytes, scales);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumeric);
      EXPECT_NE(std::string(error.what()).find("row 1, group 1"), std::string::npos);
    }
  }
}

TEST(PackedMatrixTest, CodeTooWideIsOurBug) {
  const PackedLayout layout{PackedKind::kSignPlanes, 2, 1, 1, 1};
  std::vector<uint8_t> bytes(static_cast<size_t>(codes_bytes(layout)));
  std::vector<Half> scales(static_cast<size_t>(scales_count(layout)));
  const std::vector<uint8_t> codes = {4};
  const std::vector<float> params = {1.0f, 1.0f};
  EXPECT_THROW(pack(layout, codes, params, bytes, scales), InternalError);
}

}  // namespace
}  // namespace d2q
