#include <algorithm>

#include "base/error.h"
#include "text/json_view.h"
#include "text/pipeline_tokenizer.h"
#include "text/utf8.h"

namespace d2q {
namespace {

/// {"token": id, ...}
std::unique_ptr<Vocabulary> read_vocabulary(const JsonView& json) {
  if (!json.value().is_object()) json.corrupt("an object of token strings and ids");
  std::vector<Vocabulary::Entry> entries;
  entries.reserve(json.value().size());
  for (const auto& [token, id] : json.value().items()) {
    const int64_t value = JsonView(id, json.path()).as_integer();
    if (value < 0 || value >= kMaxVocabulary) {
      fail(ErrorCode::kCorrupt, "{}: token '{}' has id {}, outside 0..{}", json.path(), token,
           value, kMaxVocabulary - 1);
    }
    entries.push_back({token, static_cast<int32_t>(value)});
  }
  return std::make_unique<Vocabulary>(std::move(entries), json.path());
}

/// ["left", "right"], or in older files "left right".
MergeRule read_merge(const JsonView& json) {
  if (json.value().is_array()) {
    const std::vector<JsonView> pair = json.items();
    if (pair.size() != 2) json.corrupt("a pair of tokens");
    return {pair[0].as_string(), pair[1].as_string()};
  }
  const std::string line = json.as_string();
  const size_t space = line.find(' ');
  if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
    fail(ErrorCode::kCorrupt, "{}: '{}' is not two tokens with one space between", json.path(),
         line);
  }
  return {line.substr(0, space), line.substr(space + 1)};
}

std::vector<MergeRule> read_merges(const JsonView& json) {
  const nlohmann::json& list = json.value();
  if (!list.is_array()) json.corrupt("an array of merges");
  if (list.size() > kMaxMerges) {
    fail(ErrorCode::kCorrupt, "{}: {} merges, the limit is {}; corrupt file?", json.path(),
         list.size(), kMaxMerges);
  }
  std::vector<MergeRule> merges;
  merges.reserve(list.size());
  for (const nlohmann::json& item : list) {
    if (item.is_string() && item.get_ref<const std::string&>().starts_with("#version")) continue;
    merges.push_back(read_merge(JsonView(item, json.path())));
  }
  return merges;
}

/// [["piece", score], ...], ids in the order of the list.
void read_unigram(const JsonView& json, TokenizerParts& parts) {
  UnigramOptions options;
  std::vector<Vocabulary::Entry> entries;
  const JsonView pieces = json.at("vocab");
  if (!pieces.value().is_array()) pieces.corrupt("an array of pieces with scores");
  if (pieces.value().size() > static_cast<size_t>(kMaxVocabulary)) {
    fail(ErrorCode::kCorrupt, "{}: {} pieces, the limit is {}", pieces.path(),
         pieces.value().size(), kMaxVocabulary);
  }
  for (const nlohmann::json& item : pieces.value()) {
    const JsonView piece(item, pieces.path());
    if (!item.is_array() || item.size() != 2 || !item[0].is_string() || !item[1].is_number()) {
      piece.corrupt("a piece and its score");
    }
    entries.push_back({item[0].get<std::string>(), static_cast<int32_t>(entries.size())});
    options.scores.push_back(score_as_read(item[1].get<double>()));
  }
  if (const auto unknown = json.find("unk_id")) {
    const int64_t id = unknown->as_integer();
    if (id < 0 || id >= kMaxVocabulary) unknown->corrupt("a token's id");
    options.unk_id = static_cast<int32_t>(id);
  }
  options.byte_fallback = json.boolean("byte_fallback", false);
  parts.vocabulary = std::make_unique<Vocabulary>(std::move(entries), pieces.path());
  parts.unigram = std::move(options);
}

void read_model(const JsonView& json, TokenizerParts& parts) {
  const std::string type = json.string_or("type", "BPE");
  if (type == "Unigram") return read_unigram(json, parts);
  if (type != "BPE") json.unsupported("model '" + type + "'");
  const auto dropout = json.find("dropout");
  if (dropout && !(dropout->value().is_number() && dropout->value().get<double>() == 0.0)) {
    json.unsupported("'dropout', which makes ids random,");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!json.string_or(affix, "").empty()) json.unsupported(fmt::format("'{}'", affix));
  }
  parts.bpe.ignore_merges = json.boolean("ignore_merges", false);
  parts.bpe.byte_fallback = json.boolean("byte_fallback", false);
  parts.bpe.fuse_unk = json.boolean("fuse_unk", false);
  parts.bpe.unk_token = json.string_or("unk_token", "");
  parts.vocabulary = read_vocabulary(json.at("vocab"));
  parts.merges = read_merges(json.at("merges"));
}

/// The ids are not the file's but those that the reference tokenizers give: a token that the model
/// knows keeps its id, the others follow the vocabulary in the order of the file.
std::vector<AddedToken> read_added_tokens(const JsonView& json, const Vocabulary& vocabulary,
                                          size_t n_model_tokens) {
  std::vector<AddedToken> tokens;
  std::unordered_map<std::string, int32_t> ids;
  int64_t largest = -1;
  const auto model_size = static_cast<int64_t>(n_model_tokens);
  for (const JsonView& item : json.items()) {
    AddedToken token;
    token.content = item.string("content");
    token.single_word = item.boolean("single_word", false);
    token.lstrip = item.boolean("lstrip", false);
    token.rstrip = item.boolean("rstrip", false);
    token.normalized = item.boolean("normalized", true);
    token.special = item.boolean("special", false);
    if (token.content.empty()) continue;
    if (token.content.size() > kMaxAddedTokenBytes || tokens.size() == kMaxAddedTokens) {
      fail(ErrorCode::kCorrupt, "{}: more than {} added tokens, or one longer than {} bytes",
           json.path(), kMaxAddedTokens, kMaxAddedTokenBytes);
    }
    if (!is_valid_utf8(token.content)) item.corrupt("valid UTF-8");
    const auto known = ids.find(token.content);
    const auto in_model = vocabulary.find(token.content);
    const int64_t id = known != ids.end() ? known->second
                       : in_model         ? *in_model
                                          : std::max(largest + 1, model_size);
    if (id >= kMaxVocabulary) item.unsupported(fmt::format("id {}", id));
    token.id = static_cast<int32_t>(id);
    largest = std::max(largest, id);
    ids[token.content] = token.id;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// Where the text stands between the special tokens of a TemplateProcessing.
void read_template(const JsonView& json, TokenizerParts& parts) {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool text_seen = false;
  for (const JsonView& item : json.at("single").items()) {
    if (const auto sequence = item.find("Sequence")) {
      if (text_seen || sequence->string("id") != "A") item.unsupported("a second text");
      text_seen = true;
      continue;
    }
    const std::string name = item.at("SpecialToken").string("id");
    const JsonView ids = json.at("special_tokens").at(name).at("ids");
    for (const JsonView& id : ids.items()) {
      const int64_t value = id.as_integer();
      if (value < 0 || value >= kMaxVocabulary) id.unsupported(fmt::format("id {}", value));
      (text_seen ? after : before).push_back(static_cast<int32_t>(value));
    }
  }
  if (!text_seen) json.unsupported("a template without the text");
  parts.template_prefix.insert(parts.template_prefix.begin(), before.begin(), before.end());
  parts.template_suffix.insert(parts.template_suffix.end(), after.begin(), after.end());
}

void read_post_processor(const JsonView& json, TokenizerParts& parts) {
  const std::string type = json.string("type");
  if (type == "Sequence") {
    for (const JsonView& part : json.at("processors").items()) read_post_processor(part, parts);
  } else if (type == "TemplateProcessing") {
    read_template(json, parts);
  } else if (type != "ByteLevel") {  // ByteLevel only moves offsets
    json.unsupported("post-processor '" + type + "'");
  }
}

}  // namespace

TokenizerParts read_tokenizer_json(const nlohmann::json& document, const std::string& source) {
  const JsonView json(document, source);
  TokenizerParts parts;
  parts.source = source;
  read_model(json.at("model"), parts);
  if (const auto normalizer = json.find("normalizer")) {
    parts.normalizer = make_normalizer(*normalizer);
  }
  if (const auto pre_tokenizer = json.find("pre_tokenizer")) {
    parts.pre_tokenizers = PreTokenizerChain(*pre_tokenizer);
  }
  parts.bpe.byte_level = parts.pre_tokenizers.byte_level();
  if (const auto tokens = json.find("added_tokens")) {
    parts.added_tokens =
        read_added_tokens(*tokens, *parts.vocabulary, json.at("model").at("vocab").value().size());
  }
  if (const auto post_processor = json.find("post_processor")) {
    read_post_processor(*post_processor, parts);
  }
  if (const auto decoder = json.find("decoder")) parts.decoder = TokenDecoder(*decoder);
  return parts;
}

}  // namespace d2q
