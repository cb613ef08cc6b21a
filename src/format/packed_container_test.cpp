#include "format/packed_container.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"

namespace d2q {
namespace {

using testing::TempFolder;

constexpr const char* kWeight = "model.layers.0.mlp.down_proj.weight";
const PackedLayout kLayout = {PackedKind::kSignPlanes, 2, 20, 70, 32};

TEST(PackedContainerTest, TheLayoutIsWrittenAsDocumented) {
  EXPECT_EQ(packed_layout_to_string({PackedKind::kSignPlanes, 2, 576, 1536, 64}),
            "planes b=2 rows=576 cols=1536 group=64");
  EXPECT_EQ(packed_layout_to_string({PackedKind::kUniform, 3, 1, 2, 128}),
            "uniform b=3 rows=1 cols=2 group=128");
}

TEST(PackedContainerTest, EveryLayoutSurvivesTheRoundTrip) {
  for (const PackedKind kind : {PackedKind::kSignPlanes, PackedKind::kUniform}) {
    for (const int bits : {2, 3}) {
      const PackedLayout layout = {kind, bits, 17, 1000, 48};
      EXPECT_EQ(parse_packed_layout(packed_layout_to_string(layout), "test"), layout);
    }
  }
}

TEST(PackedContainerTest, RefusesWhatIsNoLayout) {
  for (const char* text :
       {"", "planes", "plane b=2 rows=1 cols=1 group=1", "planes b=2 rows=1 cols=1",
        "planes b=2 rows=1 cols=1 group=1 ", "planes  b=2 rows=1 cols=1 group=1",
        "planes b=2 rows=-1 cols=1 group=1", "planes b= rows=1 cols=1 group=1",
        "planes b=2 cols=1 rows=1 group=1", "planes b=2 rows=99999999999999999999 cols=1 group=1",
        "planes b=9 rows=1 cols=1 group=1", "planes b=4 rows=1 cols=1 group=1",
        "uniform b=2 rows=0 cols=1 group=1", "uniform b=2 rows=1 cols=1 group=0",
        "uniform b=8 rows=9223372036854775807 cols=9223372036854775807 group=1"}) {
    D2Q_EXPECT_ERROR(parse_packed_layout(text, "file: 'x'"), ErrorCode::kCorrupt, "file: 'x'");
  }
}

struct Packed {
  std::vector<uint8_t> codes;
  std::vector<Half> scales;
};

Packed make_packed() {
  const auto n_weights = static_cast<size_t>(kLayout.rows * kLayout.cols);
  std::vector<uint8_t> codes(n_weights);
  for (size_t i = 0; i < n_weights; ++i) codes[i] = static_cast<uint8_t>(i * 7 % 4);
  std::vector<float> params(
      static_cast<size_t>(kLayout.rows * kLayout.n_groups() * kLayout.n_params()));
  for (size_t i = 0; i < params.size(); ++i) params[i] = 0.5f + 0.125f * static_cast<float>(i % 9);
  Packed packed;
  packed.codes.resize(static_cast<size_t>(codes_bytes(kLayout)));
  packed.scales.resize(static_cast<size_t>(scales_count(kLayout)));
  pack(kLayout, codes, params, packed.codes, packed.scales);
  return packed;
}

void write_folder(const std::filesystem::path& folder, const Packed& packed,
                  const std::vector<SafetensorsSpec>& specs, const std::string& layout) {
  std::map<std::string, std::string> metadata;
  if (!layout.empty()) metadata.emplace(packed_layout_key(kWeight), layout);
  SafetensorsWriter writer(folder / "model.safetensors", specs, metadata);
  const auto codes = std::as_bytes(std::span(packed.codes));
  const auto scales = std::as_bytes(std::span(packed.scales));
  for (const SafetensorsSpec& spec : specs) {
    const bool is_codes = spec.name.ends_with(".codes");
    const auto n_bytes = static_cast<size_t>(spec.shape[0] * size_of(spec.type));
    writer.write(spec.name, (is_codes ? codes : scales).subspan(0, n_bytes));
  }
  writer.finish();
}

TEST(PackedContainerTest, APackedMatrixIsReadBackAsAView) {
  const TempFolder folder;
  const Packed packed = make_packed();
  write_folder(folder.path(), packed, packed_specs(kWeight, kLayout),
               packed_layout_to_string(kLayout));
  const SafetensorsFolder model(folder.path());
  const auto view = find_packed(model, kWeight);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->layout, kLayout);
  ASSERT_EQ(view->codes.size(), packed.codes.size());
  EXPECT_EQ(std::memcmp(view->codes.data(), packed.codes.data(), packed.codes.size()), 0);
  EXPECT_TRUE(std::equal(view->scales.begin(), view->scales.end(), packed.scales.begin(),
                         packed.scales.end()));
  EXPECT_EQ(find_packed(model, "other.weight"), std::nullopt);
}

TEST(PackedContainerTest, PartsThatDoNotFitTogetherAreRefused) {
  const Packed packed = make_packed();
  const std::string layout = packed_layout_to_string(kLayout);
  const auto good = packed_specs(kWeight, kLayout);
  const auto expect_refused = [&](std::vector<SafetensorsSpec> specs, const std::string& text,
                                  const char* reason) {
    const TempFolder folder;
    write_folder(folder.path(), packed, specs, text);
    const SafetensorsFolder model(folder.path());
    D2Q_EXPECT_ERROR(find_packed(model, kWeight), ErrorCode::kCorrupt, reason);
  };
  expect_refused(good, "", "no metadata entry");
  expect_refused(good, "planes b=2 rows=36 cols=70 group=32", ".codes");
  expect_refused({good[0]}, layout, ".scales' of a packed matrix is missing");
  auto short_scales = good;
  short_scales[1].shape[0] -= 1;
  expect_refused(short_scales, layout, ".scales");
  auto other_type = good;
  other_type[1].type = SafetensorsType::kBF16;
  expect_refused(other_type, layout, "F16[");
  auto matrix_shape = good;
  matrix_shape[0].shape.push_back(1);
  expect_refused(matrix_shape, layout, "U8[");
}

}  // namespace
}  // namespace d2q
