#include "text/normalizer.h"

#include "base/testing/expect_error.h"
#include "text/testing/golden_file.h"

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

TEST(Normalizer, RefusesAnUnknownTypeByName) {
  const nlohmann::json config = {{"type", "Precompiled"}};
  D2Q_EXPECT_ERROR(make_normalizer(JsonView(config, "test.json")), ErrorCode::kUnsupported,
                   "test.json: normalizer 'Precompiled'");
}

}  // namespace
}  // namespace d2q
