#include "export/encode_q2_0.h"

#include <gtest/gtest.h>

#include "format/gguf.h"

namespace d2q {
namespace {

struct Packed {
  PackedLayout layout{PackedKind::kUniform, 2, 3, 192, 64};
  std::vector<uint8_t> codes;
  std::vector<Half> scales;
  PackedView view() const { return {layout, codes, scales}; }
};

/// Every code, positive scales, zeros from `zeros` in turn.
Packed make_packed(const PackedLayout& layout, const std::vector<float>& zeros) {
  Packed result;
  result.layout = layout;
  std::vector<uint8_t> codes(static_cast<size_t>(layout.rows * layout.cols));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>((i * 7 + i / 5) % 4);
  std::vector<float> params(static_cast<size_t>(layout.rows * layout.n_groups() * 2));
  for (size_t g = 0; g < params.size() / 2; ++g) {
    params[2 * g] = 0.25f + 0.125f * static_cast<float>(g);
    params[2 * g + 1] = zeros[g % zeros.size()];
  }
  result.codes.resize(static_cast<size_t>(codes_bytes(layout)));
  result.scales.resize(static_cast<size_t>(scales_count(layout)));
  pack(layout, codes, params, result.codes, result.scales);
  return result;
}

TEST(EncodeQ2, HoldsThePackedWeightsToTheBit) {
  for (const int64_t group : {64, 128, 192}) {
    const Packed packed = make_packed({PackedKind::kUniform, 2, 3, 192, group}, {1.0f, 2.0f});
    ASSERT_TRUE(fits_q2_0(packed.view())) << group;
    std::vector<float> expected(3 * 192);
    dequantize(packed.view(), expected);
    const std::vector<std::byte> bytes = encode_q2_0(packed.view());
    EXPECT_EQ(bytes.size(), 3u * 3u * 18u);
    std::vector<float> found(expected.size());
    dequantize_blocks(GgufType::kQ2_0, bytes, found);
    EXPECT_EQ(found, expected) << group;
  }
}

TEST(EncodeQ2, RefusesWhatItWouldHaveToRound) {
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kUniform, 2, 3, 192, 64}, {1.0f, 0.0f}).view()));
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kUniform, 2, 3, 192, 64}, {1.5f}).view()));
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kUniform, 2, 3, 192, 96}, {1.0f}).view()));
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kUniform, 2, 3, 100, 128}, {1.0f}).view()));
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kUniform, 4, 3, 192, 64}, {1.0f}).view()));
  EXPECT_FALSE(fits_q2_0(make_packed({PackedKind::kSignPlanes, 2, 3, 192, 64}, {1.0f}).view()));
}

}  // namespace
}  // namespace d2q
