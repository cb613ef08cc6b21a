#include "text/tokenizer_gguf.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/bpe_model.h"
#include "text/score_merges.h"
#include "text/utf8.h"
#include "text/vocabulary.h"

namespace d2q {
namespace {

constexpr const char* kByteLevelGpt2 =
    R"json({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})json";

constexpr const char* kDigitsThenGpt2 = R"json({"type": "Sequence", "pretokenizers": [
  {"type": "Digits", "individual_digits": true},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]})json";

constexpr const char* kLlama3 = R"json({"type": "Sequence", "pretokenizers": [
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
   "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})json";

constexpr const char* kQwen2 = R"json({"type": "Sequence", "pretokenizers": [
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
   "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})json";

// What GGUF runtimes do for files that name no pre-tokenizer. It is nobody's training-time
// pre-tokenizer, but the one that such files are run and measured with.
constexpr const char* kDefault = R"json({"type": "Sequence", "pretokenizers": [
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
   "[\\p{P}\\$\\+<=>\\^~\\|]+"}},
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
   "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"}},
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": "\\p{N}+"}},
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": "[0-9][0-9][0-9]"}},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})json";

/// How the name in tokenizer.ggml.pre is to be read.
struct PreTokenizerKind {
  const char* name;
  const char* pre_tokenizer;
  bool nfc;
  bool ignore_merges;
  bool adds_bos;  // unless the file says otherwise
};

constexpr const char* kTekken = R"json({"type": "Sequence", "pretokenizers": [
  {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
   "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
  {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})json";

constexpr PreTokenizerKind kKinds[] = {
    {"default", kDefault, false, false, false},
    {"gpt-2", kByteLevelGpt2, false, false, false},
    {"gpt2", kByteLevelGpt2, false, false, false},
    {"phi-2", kByteLevelGpt2, false, false, false},
    {"mpt", kByteLevelGpt2, false, false, false},
    {"olmo", kByteLevelGpt2, false, false, false},
    {"smollm", kDigitsThenGpt2, false, false, false},
    {"starcoder", kDigitsThenGpt2, false, false, false},
    {"refact", kDigitsThenGpt2, false, false, false},
    {"llama-bpe", kLlama3, false, true, true},
    {"llama3", kLlama3, false, true, true},
    {"llama-v3", kLlama3, false, true, true},
    {"falcon3", kLlama3, false, true, true},
    {"qwen2", kQwen2, true, false, false},
    {"deepseek-r1-qwen", kQwen2, true, false, false},
    {"tekken", kTekken, false, true, true},
};

/// tokenizer.ggml.token_type
enum GgufTokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4 };

const PreTokenizerKind& kind_of(const GgufFile& file, std::string_view name) {
  for (const PreTokenizerKind& kind : kKinds) {
    if (name == kind.name) return kind;
  }
  fail(ErrorCode::kUnsupported, "{}: tokenizer.ggml.pre: pre-tokenizer '{}' is not supported",
       file.path().string(), name);
}

std::vector<std::string_view> required_strings(const GgufFile& file, const std::string& key) {
  auto list = file.strings(key);
  if (!list) {
    fail(ErrorCode::kNotFound, "{}: '{}' is missing; a file without a tokenizer?",
         file.path().string(), key);
  }
  return *std::move(list);
}

/// ["left", "right"] of "left right"; a left part may itself begin with a space.
nlohmann::json split_merge(const GgufFile& file, std::string_view line) {
  const size_t space = line.find(' ', 1);
  if (space == std::string_view::npos) {
    fail(ErrorCode::kCorrupt,
         "{}: tokenizer.ggml.merges: '{}' is not two tokens with a space between",
         file.path().string(), line);
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

nlohmann::json added_token(int64_t id, std::string_view content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

nlohmann::json template_part(const char* kind, std::string_view id) {
  return {{kind, {{"id", id}, {"type_id", 0}}}};
}

/// TemplateProcessing that puts BOS before and EOS after the text, as the file asks; or null.
nlohmann::json post_processor(const GgufFile& file, bool adds_bos,
                              std::span<const std::string_view> tokens) {
  nlohmann::json specials = nlohmann::json::object();
  const auto special = [&](const std::string& key) {
    const auto id = file.integer(key);
    if (!id || *id < 0 || *id >= static_cast<int64_t>(tokens.size())) {
      fail(ErrorCode::kCorrupt, "{}: '{}' is missing or outside the vocabulary",
           file.path().string(), key);
    }
    const std::string_view token = tokens[static_cast<size_t>(*id)];
    specials[std::string(token)] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
    return template_part("SpecialToken", token);
  };
  nlohmann::json single = nlohmann::json::array();
  if (file.boolean("tokenizer.ggml.add_bos_token").value_or(adds_bos)) {
    single.push_back(special("tokenizer.ggml.bos_token_id"));
  }
  single.push_back(template_part("Sequence", "A"));
  if (file.boolean("tokenizer.ggml.add_eos_token").value_or(false)) {
    single.push_back(special("tokenizer.ggml.eos_token_id"));
  }
  if (single.size() == 1) return nullptr;
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", {template_part("Sequence", "A"), template_part("Sequence", "B")}},
          {"special_tokens", specials}};
}

/// The parts that both kinds of tokenizer have.
struct TokenLists {
  std::vector<std::string_view> tokens;
  nlohmann::json vocabulary = nlohmann::json::object();
  nlohmann::json added = nlohmann::json::array();
};

TokenLists read_tokens(const GgufFile& file) {
  const std::string path = file.path().string();
  TokenLists lists;
  lists.tokens = required_strings(file, "tokenizer.ggml.tokens");
  const auto types = file.integers("tokenizer.ggml.token_type");
  if (types && types->size() != lists.tokens.size()) {
    fail(ErrorCode::kCorrupt, "{}: {} token types for {} tokens", path, types->size(),
         lists.tokens.size());
  }
  if (lists.tokens.size() > static_cast<size_t>(kMaxVocabulary)) {
    fail(ErrorCode::kCorrupt, "{}: {} tokens, the limit is {}", path, lists.tokens.size(),
         kMaxVocabulary);
  }
  for (size_t id = 0; id < lists.tokens.size(); ++id) {
    const std::string_view token = lists.tokens[id];
    if (!is_valid_utf8(token)) {
      fail(ErrorCode::kCorrupt, "{}: token {} is not valid UTF-8; corrupt file?", path, id);
    }
    lists.vocabulary[std::string(token)] = id;
    const int64_t type = types ? (*types)[id] : kNormal;
    if (type == kControl || type == kUnknown || type == kUserDefined) {
      lists.added.push_back(added_token(static_cast<int64_t>(id), token, type != kUserDefined));
    }
  }
  return lists;
}

nlohmann::json byte_level_document(const GgufFile& file) {
  const PreTokenizerKind& kind =
      kind_of(file, file.string("tokenizer.ggml.pre").value_or("default"));
  TokenLists lists = read_tokens(file);
  const auto merges = required_strings(file, "tokenizer.ggml.merges");
  if (merges.size() > kMaxMerges) {
    fail(ErrorCode::kCorrupt, "{}: {} merges, the limit is {}", file.path().string(), merges.size(),
         kMaxMerges);
  }
  nlohmann::json rules = nlohmann::json::array();
  for (const std::string_view line : merges) rules.push_back(split_merge(file, line));
  return {{"added_tokens", std::move(lists.added)},
          {"normalizer", kind.nfc ? nlohmann::json{{"type", "NFC"}} : nlohmann::json(nullptr)},
          {"pre_tokenizer", nlohmann::json::parse(kind.pre_tokenizer)},
          {"post_processor", post_processor(file, kind.adds_bos, lists.tokens)},
          {"decoder",
           {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true},
            {"use_regex", true}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", kind.ignore_merges},
            {"vocab", std::move(lists.vocabulary)},
            {"merges", std::move(rules)}}}};
}

/// SentencePiece's BPE, as the converters of the reference tokenizers write it.
nlohmann::json sentencepiece_document(const GgufFile& file) {
  TokenLists lists = read_tokens(file);
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (!scores || scores->size() != lists.tokens.size()) {
    fail(ErrorCode::kCorrupt, "{}: tokenizer.ggml.scores: {} scores for {} tokens",
         file.path().string(), scores ? scores->size() : 0, lists.tokens.size());
  }
  const auto unknown = file.integer("tokenizer.ggml.unknown_token_id").value_or(0);
  const bool has_unknown = unknown >= 0 && unknown < static_cast<int64_t>(lists.tokens.size());
  const bool adds_space = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  const nlohmann::json mark_spaces = {
      {"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}};
  nlohmann::json decoders = {
      {{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}},
      {{"type", "ByteFallback"}},
      {{"type", "Fuse"}}};
  nlohmann::json normalizer = mark_spaces;
  if (adds_space) {
    normalizer = {{"type", "Sequence"},
                  {"normalizers", {{{"type", "Prepend"}, {"prepend", kSpaceMark}}, mark_spaces}}};
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  nlohmann::json merges = merges_from_scores(lists.tokens, *scores, file.path().string());
  return {{"added_tokens", std::move(lists.added)},
          {"normalizer", std::move(normalizer)},
          {"pre_tokenizer", nullptr},
          {"post_processor", post_processor(file, /*adds_bos=*/true, lists.tokens)},
          {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", has_unknown ? nlohmann::json(lists.tokens[static_cast<size_t>(unknown)])
                                      : nlohmann::json(nullptr)},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"ignore_merges", false},
            {"vocab", std::move(lists.vocabulary)},
            {"merges", std::move(merges)}}}};
}

}  // namespace

nlohmann::json gguf_tokenizer_json(const GgufFile& file) {
  const std::string_view model = file.string("tokenizer.ggml.model").value_or("");
  nlohmann::json document;
  if (model == "gpt2") {
    document = byte_level_document(file);
  } else if (model == "llama") {
    document = sentencepiece_document(file);
  } else {
    fail(model.empty() ? ErrorCode::kNotFound : ErrorCode::kUnsupported,
         "{}: tokenizer.ggml.model is '{}', only 'gpt2' (byte-level BPE) and 'llama' "
         "(SentencePiece's BPE) are supported",
         file.path().string(), model);
  }
  document["version"] = "1.0";
  document["truncation"] = nullptr;
  document["padding"] = nullptr;
  for (const char* unused : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    document["model"][unused] = nullptr;
  }
  return document;
}

std::string gguf_pre_tokenizer_name(const nlohmann::json& pre_tokenizer) {
  // What only moves offsets or is a default does not change tokens.
  const auto essence = [](nlohmann::json node) {
    std::vector<nlohmann::json*> parts = {&node};
    if (node.is_object() && node.contains("pretokenizers") && node["pretokenizers"].is_array()) {
      for (nlohmann::json& part : node["pretokenizers"]) parts.push_back(&part);
    }
    for (nlohmann::json* part : parts) {
      if (!part->is_object()) continue;
      part->erase("trim_offsets");
      if (part->value("use_regex", true)) part->erase("use_regex");
    }
    return node;
  };
  const nlohmann::json wanted = essence(pre_tokenizer);
  for (const PreTokenizerKind& kind : kKinds) {
    if (essence(nlohmann::json::parse(kind.pre_tokenizer)) == wanted) return kind.name;
  }
  return "";
}

}  // namespace d2q
