#include "text/normalizer.h"

#include "base/testing/expect_error.h"
#include "text/testing/golden_file.h"
#include "text/utf8.h"

namespace d2q {
namespace {

TEST(Normalizer, RewritesAsTheReference) {
  const nlohmann::json golden = testing::golden_json("tokenizer_normalizers.json");
  for (const auto& item : golden["cases"]) {
    const auto normalizer = make_normalizer(JsonView(item["config"], "test.json"));
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      std::string text = golden["texts"][i];
      normalizer->apply(text);
      EXPECT_EQ(text, item["results"][i].get<std::string>())
          << item["config"] << " on " << golden["texts"][i];
    }
  }
}

/// CRC-32 as zlib has it.
uint32_t crc32(std::string_view text, uint32_t crc) {
  crc = ~crc;
  for (const char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

// Each character alone, and among marks that it may join, follow or pass.
TEST(Normalizer, NormalFormsOfEveryCharacterAreTheReferences) {
  const nlohmann::json golden = testing::golden_json("tokenizer_classes.json");
  for (const char* form : {"NFC", "NFD", "NFKC", "NFKD"}) {
    const nlohmann::json config = {{"type", form}};
    const auto normalizer = make_normalizer(JsonView(config, "test.json"));
    uint32_t crc = 0;
    for (char32_t start = 0; start < 0x110000; start += 0x1000) {
      std::string text;
      for (char32_t c = start; c < start + 0x1000; ++c) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        append_utf8(text, c);
        text += "\na\u0301";
        append_utf8(text, c);
        text += "\u0323\u0334";
        append_utf8(text, c);
        text += "\u0301\n";
      }
      normalizer->apply(text);
      crc = crc32(text, crc);
    }
    EXPECT_EQ(crc, golden[form].get<uint32_t>()) << form;
  }
}

TEST(Normalizer, RefusesAnUnknownTypeByName) {
  const nlohmann::json config = {{"type", "Precompiled"}};
  D2Q_EXPECT_ERROR(make_normalizer(JsonView(config, "test.json")), ErrorCode::kUnsupported,
                   "test.json: normalizer 'Precompiled'");
}

}  // namespace
}  // namespace d2q
