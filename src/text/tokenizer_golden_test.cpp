// Ids and texts against the reference tokenizers, on small tokenizers of every kind.
#include <gtest/gtest.h>

#include <thread>

#include "text/testing/golden_file.h"
#include "text/tokenizer.h"

namespace d2q {
namespace {

using testing::from_hex;
using testing::golden_json;
using testing::golden_path;

class GoldenTokenizer : public ::testing::TestWithParam<const char*> {
 protected:
  GoldenTokenizer()
      : golden_(golden_json("tokenizer_golden.json")),
        expected_(golden_["tokenizers"][GetParam()]),
        tokenizer_(load_tokenizer(golden_path(std::string("tokenizer_") + GetParam() + ".json"))) {
    for (const auto& hex : golden_["texts"]) texts_.push_back(from_hex(hex));
  }
  nlohmann::json golden_;
  nlohmann::json expected_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::string> texts_;
};

TEST_P(GoldenTokenizer, EncodesAsTheReference) {
  ASSERT_EQ(texts_.size(), expected_["encode"].size());
  for (size_t i = 0; i < texts_.size(); ++i) {
    const std::vector<int32_t> ids = expected_["encode"][i];
    EXPECT_EQ(tokenizer_->encode(texts_[i], false), ids) << "text " << i << ": " << texts_[i];
  }
}

TEST_P(GoldenTokenizer, PutsItsTemplateAroundTheText) {
  const std::vector<int32_t> ids = expected_["framed"];
  EXPECT_EQ(tokenizer_->encode("kettle 12", true), ids);
}

TEST_P(GoldenTokenizer, DecodesAsTheReference) {
  for (const auto& item : expected_["decode"]) {
    const std::vector<int32_t> ids = item["ids"];
    EXPECT_EQ(tokenizer_->decode(ids, false), item["plain"].get<std::string>()) << item["ids"];
    EXPECT_EQ(tokenizer_->decode(ids, true), item["special"].get<std::string>()) << item["ids"];
  }
}

TEST_P(GoldenTokenizer, EncodesTheSameFromManyThreads) {
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts_) expected.push_back(tokenizer_->encode(text, true));
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t round = 0; round < 3; ++round) {
        for (size_t i = 0; i < texts_.size(); ++i) {
          const size_t at = (i * (t + 1) + round) % texts_.size();
          wrong[t] += tokenizer_->encode(texts_[at], true) != expected[at];
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer,
                         ::testing::Values("gpt2", "llama3", "qwen2", "smollm", "added", "holes",
                                           "sentencepiece", "scored", "metaspace", "gemma",
                                           "unigram", "unigram_bytes"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(ByteLevelTokenizer, RoundTripsValidText) {
  for (const char* name : {"gpt2", "llama3", "smollm"}) {
    const auto tokenizer = load_tokenizer(golden_path(std::string("tokenizer_") + name + ".json"));
    const nlohmann::json golden = golden_json("tokenizer_golden.json");
    for (const auto& hex : golden["texts"]) {
      const std::string text = from_hex(hex);
      const std::string decoded = tokenizer->decode(tokenizer->encode(text, false), true);
      std::string bytes;
      for (const int32_t id : tokenizer->encode(text, false)) {
        bytes += tokenizer->token_bytes(id, true);
      }
      EXPECT_EQ(decoded, bytes) << name;
      Utf8Stream stream;
      std::string streamed = stream.push(text);
      streamed += stream.finish();
      EXPECT_EQ(decoded, streamed) << name;
    }
  }
}

TEST(ByteLevelTokenizer, FindsTokensByTheirText) {
  const auto tokenizer = load_tokenizer(golden_path("tokenizer_qwen2.json"));
  const auto special = tokenizer->find_token("<|special|>");
  ASSERT_TRUE(special);
  EXPECT_EQ(tokenizer->token_bytes(*special), "");
  EXPECT_EQ(tokenizer->token_bytes(*special, true), "<|special|>");
  const auto plain = tokenizer->find_token("<|plain|>");
  ASSERT_TRUE(plain);
  EXPECT_EQ(tokenizer->token_bytes(*plain), "<|plain|>");
  EXPECT_GT(tokenizer->vocab_size(), *plain);
  EXPECT_FALSE(tokenizer->find_token("no such token"));
  EXPECT_EQ(tokenizer->token_bytes(-1, true), "");
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->vocab_size(), true), "");
}

}  // namespace
}  // namespace d2q
