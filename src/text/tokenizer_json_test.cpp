// One lie a test: what a hostile or unusual tokenizer.json gets for an answer.
#include "base/testing/expect_error.h"
#include "base/testing/temp_folder.h"
#include "text/pipeline_tokenizer.h"
#include "text/tokenizer.h"
#include "text/unigram_model.h"

namespace d2q {
namespace {

nlohmann::json small_document() {
  return nlohmann::json::parse(R"({
    "added_tokens": [],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})");
}

std::vector<int32_t> encode_with(const nlohmann::json& document, std::string_view text) {
  return PipelineTokenizer(read_tokenizer_json(document, "t.json")).encode(text, true);
}

#define EXPECT_REFUSED(document, code, text) \
  D2Q_EXPECT_ERROR(encode_with(document, "ab"), ErrorCode::code, text)

TEST(TokenizerJson, ReadsAMinimalDocument) {
  EXPECT_EQ(encode_with(small_document(), "abba"), (std::vector<int32_t>{2, 1, 0}));
}

TEST(TokenizerJson, NamesWhatItDoesNotSupport) {
  const std::pair<const char*, const char*> parts[] = {
      {"/model/type", "model 'Xyz'"},
      {"/pre_tokenizer/type", "pre-tokenizer 'Xyz'"},
      {"/decoder/type", "decoder 'Xyz'"}};
  for (const auto& [path, message] : parts) {
    nlohmann::json document = small_document();
    document[nlohmann::json::json_pointer(path)] = "Xyz";
    EXPECT_REFUSED(document, kUnsupported, message);
  }
  nlohmann::json document = small_document();
  document["post_processor"] = {{"type", "BertProcessing"}};
  EXPECT_REFUSED(document, kUnsupported, "t.json.post_processor: post-processor 'BertProcessing'");
  document = small_document();
  document["normalizer"] = {{"type", "BertNormalizer"}};
  EXPECT_REFUSED(document, kUnsupported, "normalizer 'BertNormalizer'");
  document = small_document();
  document["model"]["dropout"] = 0.1;
  EXPECT_REFUSED(document, kUnsupported, "dropout");
  document = small_document();
  document["model"]["end_of_word_suffix"] = "</w>";
  EXPECT_REFUSED(document, kUnsupported, "end_of_word_suffix");
}

nlohmann::json unigram_document() {
  nlohmann::json document = small_document();
  document["pre_tokenizer"] = nullptr;
  document["model"] = nlohmann::json::parse(R"({"type": "Unigram", "unk_id": 0,
    "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -1.5], ["ab", -2.0]]})");
  return document;
}

TEST(TokenizerJson, UnigramTakesTheCutWithTheBestScores) {
  EXPECT_EQ(encode_with(unigram_document(), "abba"), (std::vector<int32_t>{3, 2, 1}));
  EXPECT_EQ(encode_with(unigram_document(), "axya"), (std::vector<int32_t>{1, 0, 1}));
}

TEST(TokenizerJson, UnigramScoresAreRoundedAsTheReferenceReadsThem) {
  EXPECT_EQ(score_as_read(-7.3033101904955995), -7.3033101904956);
  EXPECT_EQ(score_as_read(-7.5187295705838695), -7.518729570583869);
  EXPECT_EQ(score_as_read(-7.6749072194638135), -7.674907219463813);
  for (const double exact : {0.0, -15.0, -7.25, 0.001, -1e-5, 123456.75, 1e200, -1e-300})
    EXPECT_EQ(score_as_read(exact), exact);
}

TEST(TokenizerJson, RefusesAUnigramModelThatContradictsItself) {
  const auto with = [](const char* pointer, const nlohmann::json& value) {
    nlohmann::json document = unigram_document();
    document[nlohmann::json::json_pointer(pointer)] = value;
    return document;
  };
  EXPECT_REFUSED(with("/model/vocab/1", nlohmann::json::array({"a"})), kCorrupt,
                 "a piece and its score");
  EXPECT_REFUSED(with("/model/vocab/1/1", "x"), kCorrupt, "a piece and its score");
  EXPECT_REFUSED(with("/model/vocab", nlohmann::json::object()), kCorrupt, "an array");
  EXPECT_REFUSED(with("/model/vocab", nlohmann::json::array()), kCorrupt, "0 scores");
  EXPECT_REFUSED(with("/model/unk_id", 4), kCorrupt, "unk_id 4");
  EXPECT_REFUSED(with("/model/unk_id", -1), kCorrupt, "unk_id");
  nlohmann::json document = with("/model/unk_id", nullptr);
  document["model"]["vocab"].erase(2);
  EXPECT_REFUSED(document, kCorrupt, "no unknown token");
}

TEST(TokenizerJson, RefusesAVocabularyOfTheWrongShape) {
  const nlohmann::json lies[] = {nlohmann::json::array({"a"}),
                                 "a",
                                 {{"a", -1}},
                                 {{"a", 1.5}},
                                 {{"a", "0"}},
                                 {{"a", 1 << 20}},
                                 {{"a", ~uint64_t{0}}},
                                 {{"a", 1}, {"b", 1}, {"ab", 2}}};
  for (const nlohmann::json& lie : lies) {
    nlohmann::json document = small_document();
    document["model"]["vocab"] = lie;
    EXPECT_REFUSED(document, kCorrupt, "t.json.model.vocab");
  }
}

TEST(TokenizerJson, RefusesMergesOfTheWrongShape) {
  for (
      const nlohmann::json& lie : nlohmann::json::parse(
          R"([{"a": 1}, ["a"], ["a b c"], [["a"]], [["a", "b", "c"]], [["a", 1]], [7], [["a", "x"]]])")) {
    nlohmann::json document = small_document();
    document["model"]["merges"] = lie;
    EXPECT_REFUSED(document, kCorrupt, "t.json");
  }
}

TEST(TokenizerJson, RefusesMissingMembers) {
  for (const char* name : {"vocab", "merges"}) {
    nlohmann::json document = small_document();
    document["model"].erase(name);
    EXPECT_REFUSED(document, kCorrupt, name);
  }
  EXPECT_REFUSED(nlohmann::json::object(), kCorrupt, "'model' is missing");
  EXPECT_REFUSED(nlohmann::json::array(), kCorrupt, "expected an object");
}

TEST(TokenizerJson, RefusesATemplateThatLies) {
  nlohmann::json document = small_document();
  document["post_processor"] = nlohmann::json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1, 0], "tokens": ["b", "a"]}}})");
  EXPECT_EQ(encode_with(document, "ab"), (std::vector<int32_t>{1, 0, 2}));
  nlohmann::json lie = document;
  lie["post_processor"]["special_tokens"] = nlohmann::json::object();
  EXPECT_REFUSED(lie, kCorrupt, "'<s>' is missing");
  lie = document;
  lie["post_processor"]["special_tokens"]["<s>"]["ids"] = {-1};
  EXPECT_REFUSED(lie, kUnsupported, "id -1");
  lie = document;
  lie["post_processor"]["single"].erase(1);
  EXPECT_REFUSED(lie, kUnsupported, "without the text");
}

TEST(TokenizerJson, NumbersAddedTokensAsTheReferenceDoes) {
  nlohmann::json document = small_document();
  // The ids written here are wrong on purpose: 'ab' is the model's 2, the others follow it.
  document["added_tokens"] = nlohmann::json::parse(R"([
    {"id": 9, "content": "<x>", "special": true}, {"id": 7, "content": "ab"},
    {"id": 8, "content": ""}, {"id": 50, "content": "<y>"}, {"id": 51, "content": "<x>"}])");
  EXPECT_EQ(encode_with(document, "<y>ab<x>b"), (std::vector<int32_t>{4, 2, 3, 1}));
}

TEST(TokenizerJson, RefusesAddedTokensBeyondTheLimits) {
  nlohmann::json document = small_document();
  document["added_tokens"] = {{{"id", 3}, {"content", std::string(2000, 'x')}}};
  EXPECT_REFUSED(document, kCorrupt, "longer than 1024 bytes");
  document["added_tokens"] = {{{"id", 3}, {"content", "x"}, {"special", "yes"}}};
  EXPECT_REFUSED(document, kCorrupt, "special: found string, expected true or false");
}

TEST(LoadTokenizer, NamesTheFileThatIsMissingOrBroken) {
  const testing::TempFolder folder;
  D2Q_EXPECT_ERROR(load_tokenizer(folder.path()), ErrorCode::kNotFound, "tokenizer.json");
  folder.write("tokenizer.json", R"({"model": )");
  D2Q_EXPECT_ERROR(load_tokenizer(folder.path()), ErrorCode::kCorrupt, "not valid JSON");
  folder.write("tokenizer.json", std::string(100'000, '['));
  D2Q_EXPECT_ERROR(load_tokenizer(folder.path()), ErrorCode::kCorrupt, "nested deeper");
  folder.write("tokenizer.json", small_document().dump());
  EXPECT_EQ(load_tokenizer(folder.path())->encode("ab", true), (std::vector<int32_t>{2}));
  EXPECT_EQ(load_tokenizer(folder.path() / "tokenizer.json")->vocab_size(), 3);
}

}  // namespace
}  // namespace d2q
