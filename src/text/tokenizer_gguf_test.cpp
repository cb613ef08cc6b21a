#include "text/tokenizer_gguf.h"

#include <limits>
#include <variant>

#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "text/testing/golden_file.h"
#include "text/tokenizer.h"
#include "text/tokenizer_files.h"

namespace d2q {
namespace {

using Strings = std::vector<std::string>;
using Value =
    std::variant<bool, uint32_t, std::string, Strings, std::vector<int32_t>, std::vector<float>>;
using Metadata = std::vector<std::pair<std::string, Value>>;

/// The bytes of a GGUF file of metadata alone.
class GgufBytes {
 public:
  explicit GgufBytes(const Metadata& metadata) {
    bytes_ = "GGUF";
    number<uint32_t>(3);
    number<uint64_t>(0);
    number<uint64_t>(metadata.size());
    for (const auto& [key, value] : metadata) {
      text(key);
      std::visit([&](const auto& v) { item(v); }, value);
    }
  }
  const std::string& bytes() const { return bytes_; }

 private:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void text(const std::string& value) {
    number<uint64_t>(value.size());
    bytes_ += value;
  }
  void item(bool value) {
    number<uint32_t>(7);
    number<uint8_t>(value ? 1 : 0);
  }
  void item(uint32_t value) {
    number<uint32_t>(4);
    number(value);
  }
  void item(const std::string& value) {
    number<uint32_t>(8);
    text(value);
  }
  void item(const Strings& values) {
    number<uint32_t>(9);
    number<uint32_t>(8);
    number<uint64_t>(values.size());
    for (const std::string& value : values) text(value);
  }
  void item(const std::vector<float>& values) {
    number<uint32_t>(9);
    number<uint32_t>(6);
    number<uint64_t>(values.size());
    for (const float value : values) number(value);
  }
  void item(const std::vector<int32_t>& values) {
    number<uint32_t>(9);
    number<uint32_t>(5);
    number<uint64_t>(values.size());
    for (const int32_t value : values) number(value);
  }
  std::string bytes_;
};

/// The metadata that a GGUF of a golden tokenizer.json would have.
Metadata metadata_of(const nlohmann::json& document, const std::string& pre) {
  Strings tokens(document["model"]["vocab"].size());
  for (const auto& [token, id] : document["model"]["vocab"].items()) {
    tokens[id.get<size_t>()] = token;
  }
  std::vector<int32_t> types(tokens.size(), 1);
  for (const auto& token : document["added_tokens"]) {
    const auto id = token["id"].get<size_t>();
    if (id >= tokens.size()) {
      tokens.resize(id + 1);
      types.resize(id + 1);
    }
    tokens[id] = token["content"];
    types[id] = token["special"].get<bool>() ? 3 : 4;
  }
  Strings merges;
  for (const auto& merge : document["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return {{"tokenizer.ggml.model", std::string("gpt2")},
          {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.merges", merges},
          {"tokenizer.ggml.add_bos_token", false},
          {"tokenizer.ggml.bos_token_id", uint32_t{0}},
          {"tokenizer.ggml.eos_token_id", uint32_t{1}}};
}

void set(Metadata& metadata, const std::string& key, const Value& value) {
  for (auto& [name, old] : metadata) {
    if (name == key) old = value;
  }
}

Metadata golden_metadata(const std::string& name, const std::string& pre) {
  return metadata_of(testing::golden_json("tokenizer_" + name + ".json"), pre);
}

class GgufTokenizerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const Metadata& metadata) {
    return load_tokenizer(write(metadata));
  }
  std::filesystem::path write(const Metadata& metadata) {
    return folder_.write("model.gguf", GgufBytes(metadata).bytes());
  }
  testing::TempFolder folder_;
};

TEST_F(GgufTokenizerTest, EncodesAsTheTokenizerJsonOfTheSameModel) {
  const std::pair<const char*, const char*> kinds[] = {
      {"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"smollm", "smollm"}};
  const nlohmann::json golden = testing::golden_json("tokenizer_golden.json");
  for (const auto& [name, pre] : kinds) {
    const auto tokenizer = load(golden_metadata(name, pre));
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const std::vector<int32_t> ids = golden["tokenizers"][name]["encode"][i];
      EXPECT_EQ(tokenizer->encode(testing::from_hex(golden["texts"][i]), false), ids)
          << pre << " text " << i;
    }
  }
}

/// SentencePiece's BPE: tokens with scores, each the id with a minus.
Metadata scored_metadata() {
  Metadata metadata = golden_metadata("scored", "default");
  set(metadata, "tokenizer.ggml.model", std::string("llama"));
  std::vector<float> scores(std::get<Strings>(metadata[2].second).size());
  for (size_t id = 0; id < scores.size(); ++id) scores[id] = -static_cast<float>(id);
  metadata[4] = {"tokenizer.ggml.scores", scores};
  metadata.emplace_back("tokenizer.ggml.unknown_token_id", uint32_t{0});
  return metadata;
}

TEST_F(GgufTokenizerTest, ScoresRankTheMergesOfSentencePieceModels) {
  const auto tokenizer = load(scored_metadata());
  const nlohmann::json golden = testing::golden_json("tokenizer_golden.json");
  for (size_t i = 0; i < golden["texts"].size(); ++i) {
    const std::vector<int32_t> ids = golden["tokenizers"]["scored"]["encode"][i];
    EXPECT_EQ(tokenizer->encode(testing::from_hex(golden["texts"][i]), false), ids) << "text " << i;
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a b", false)), "a b");
}

TEST_F(GgufTokenizerTest, NoMarkIsPutInFrontWhereTheFileSaysSo) {
  Metadata metadata = scored_metadata();
  const auto with_mark = load(metadata)->encode("a", false);
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", false);
  EXPECT_NE(load(metadata)->encode("a", false), with_mark);
  EXPECT_EQ(load(metadata)->decode(load(metadata)->encode(" a", false)), " a");
}

TEST_F(GgufTokenizerTest, ScoresThatDoNotFitAreRefused) {
  Metadata metadata = scored_metadata();
  auto& scores = std::get<std::vector<float>>(metadata[4].second);
  scores[3] = std::numeric_limits<float>::infinity();
  D2Q_EXPECT_ERROR(load(metadata), ErrorCode::kCorrupt, "token 3 scores inf");
  scores.pop_back();
  D2Q_EXPECT_ERROR(load(metadata), ErrorCode::kCorrupt, "scores for");
}

TEST_F(GgufTokenizerTest, Qwen2ComposesCharactersAndSplitsEveryDigit) {
  const auto tokenizer = load(golden_metadata("qwen2", "qwen2"));
  EXPECT_EQ(tokenizer->encode("e\xCC\x81", false), tokenizer->encode("\xC3\xA9", false));
  EXPECT_EQ(tokenizer->encode("12", false).size(), 2u);
}

TEST_F(GgufTokenizerTest, AFileWithoutAPreTokenizerNameHasTheDefaultOne) {
  Metadata metadata = golden_metadata("gpt2", "default");
  const auto named = load(metadata)->encode("it's 12345 a.b", false);
  metadata.erase(metadata.begin() + 1);
  EXPECT_EQ(load(metadata)->encode("it's 12345 a.b", false), named);
}

TEST_F(GgufTokenizerTest, BosAndEosAreAddedAsTheFileSays) {
  Metadata metadata = golden_metadata("llama3", "llama-bpe");
  EXPECT_EQ(load(metadata)->encode("a", true), load(metadata)->encode("a", false));
  set(metadata, "tokenizer.ggml.add_bos_token", true);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", true);
  const auto ids = load(metadata)->encode("a", true);
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 1);
  set(metadata, "tokenizer.ggml.bos_token_id", uint32_t{1'000'000});
  D2Q_EXPECT_ERROR(load(metadata), ErrorCode::kCorrupt, "bos_token_id");
}

TEST_F(GgufTokenizerTest, LiesAreRefusedByName) {
  const Metadata honest = golden_metadata("gpt2", "gpt-2");
  const auto refused = [&](const std::string& key, const Value& value, ErrorCode code,
                           const std::string& message) {
    Metadata lie = honest;
    set(lie, key, value);
    D2Q_EXPECT_ERROR(load(lie), code, message);
  };
  refused("tokenizer.ggml.model", std::string("bert"), ErrorCode::kUnsupported, "'bert'");
  refused("tokenizer.ggml.model", std::string("llama"), ErrorCode::kCorrupt, "0 scores for");
  refused("tokenizer.ggml.pre", std::string("xyz"), ErrorCode::kUnsupported, "'xyz'");
  refused("tokenizer.ggml.tokens", Strings{"a"}, ErrorCode::kCorrupt, "token types for 1 tokens");
  refused("tokenizer.ggml.merges", Strings{"ab"}, ErrorCode::kCorrupt, "'ab' is not two tokens");
  refused("tokenizer.ggml.merges", Strings{"nosuch token"}, ErrorCode::kCorrupt, "'nosuch'");
  refused("tokenizer.ggml.merges", std::string("a b"), ErrorCode::kCorrupt, "merges");
  D2Q_EXPECT_ERROR(load({{"general.architecture", std::string("llama")}}), ErrorCode::kNotFound,
                   "tokenizer.ggml.model");
  Metadata malformed = honest;
  set(malformed, "tokenizer.ggml.token_type", std::vector<int32_t>{1});
  set(malformed, "tokenizer.ggml.tokens", Strings{"\xFF"});
  D2Q_EXPECT_ERROR(load(malformed), ErrorCode::kCorrupt, "UTF-8");
}

TEST_F(GgufTokenizerTest, WritesTokenizerFilesThatLoadAsTheSameTokenizer) {
  Metadata metadata = golden_metadata("smollm", "smollm");
  set(metadata, "tokenizer.ggml.add_bos_token", true);
  metadata.emplace_back("tokenizer.chat_template", std::string("{{ messages }}"));
  const std::filesystem::path model = write(metadata);
  const testing::TempFolder first;
  write_tokenizer_files(model, first.path());
  const testing::TempFolder second;
  write_tokenizer_files(first.path(), second.path());
  const std::string text = "it's 12345 <|special|> caf\xC3\xA9\n";
  const auto ids = load_tokenizer(model)->encode(text, true);
  EXPECT_EQ(load_tokenizer(first.path())->encode(text, true), ids);
  EXPECT_EQ(load_tokenizer(second.path())->encode(text, true), ids);
  const nlohmann::json config = read_json_file(second.path() / "tokenizer_config.json");
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  EXPECT_EQ(config["bos_token"], "<|special|>");
  EXPECT_EQ(config["pad_token"], nullptr);
}

}  // namespace
}  // namespace d2q
