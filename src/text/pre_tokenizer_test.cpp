#include "text/pre_tokenizer.h"

#include "base/testing/expect_error.h"
#include "text/testing/golden_file.h"

namespace d2q {
namespace {

PreTokenizerChain chain_of(const nlohmann::json& config) {
  return PreTokenizerChain(JsonView(config, "test.json"));
}

/// Words as the reference shows them: byte strings in the alphabet.
std::vector<std::string> words_of(const nlohmann::json& config, const std::string& text) {
  nlohmann::json shown = config;
  if (chain_of(config).byte_level()) {
    // A further stage that never cuts makes the chain write its words out.
    const nlohmann::json never = {{"type", "Split"},
                                  {"pattern", {{"Regex", "(?!)"}}},
                                  {"behavior", "Isolated"},
                                  {"invert", false}};
    shown = {{"type", "Sequence"}, {"pretokenizers", {config, never}}};
  }
  const PreTokenizerChain chain = chain_of(shown);
  const Words words = chain.split(text);
  return {words.words.begin(), words.words.end()};
}

TEST(PreTokenizer, CutsAsTheReference) {
  const nlohmann::json golden = testing::golden_json("tokenizer_splits.json");
  for (const auto& item : golden["cases"]) {
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const std::vector<std::string> expected = item["words"][i];
      EXPECT_EQ(words_of(item["config"], golden["texts"][i]), expected)
          << item["config"] << " on " << golden["texts"][i];
    }
  }
}

TEST(PreTokenizer, ALongRunOfSpaceIsOneWordAndFast) {
  // Quadratic backtracking would take hours here.
  const std::string text = std::string(5'000'000, ' ') + "x" + std::string(5'000'000, '\n');
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const PreTokenizerChain chain = chain_of(byte_level);
  const Words words = chain.split(text);
  ASSERT_EQ(words.words.size(), 3u);
  EXPECT_EQ(words.words[1], " x");
}

TEST(PreTokenizer, RefusesAnUnknownTypeByName) {
  const nlohmann::json config = {{"type", "UnicodeScripts"}};
  D2Q_EXPECT_ERROR(chain_of(config), ErrorCode::kUnsupported, "UnicodeScripts");
  const nlohmann::json behavior = {
      {"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Sideways"}};
  D2Q_EXPECT_ERROR(chain_of(behavior), ErrorCode::kUnsupported, "Sideways");
}

}  // namespace
}  // namespace d2q
