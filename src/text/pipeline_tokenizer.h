// The whole pipeline: added tokens, normalizer, pre-tokenizers, model, template; and back.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/unigram_model.h"
#include "text/vocabulary.h"
#include "text/word_cache.h"

namespace d2q {

/// What a tokenizer is made of.
struct TokenizerParts {
  std::string source;  // names the file in errors
  std::unique_ptr<Vocabulary> vocabulary;
  std::vector<MergeRule> merges;
  BpeOptions bpe;
  std::optional<UnigramOptions> unigram;  // in place of merges and bpe
  std::vector<AddedToken> added_tokens;
  std::unique_ptr<Normalizer> normalizer;  // may be null
  PreTokenizerChain pre_tokenizers;
  TokenDecoder decoder;
  std::vector<int32_t> template_prefix;  // what add_special puts before and after the text
  std::vector<int32_t> template_suffix;
};

/// The parts that the document of a tokenizer.json describes. Throws Error{kCorrupt} on a document
/// that contradicts itself, Error{kUnsupported} naming a component that is not handled.
TokenizerParts read_tokenizer_json(const nlohmann::json& document, const std::string& source);

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts);

  int32_t vocab_size() const override { return vocab_size_; }
  std::vector<int32_t> encode(std::string_view text, bool add_special) const override;
  std::string token_bytes(int32_t id, bool special) const override;
  std::string decode(std::span<const int32_t> ids, bool special) const override;
  std::optional<int32_t> find_token(std::string_view text) const override;

 private:
  /// The string of a token in the vocabulary; empty for an unknown id and a special token left out.
  std::string_view shown_token(int32_t id, bool special) const;
  void append_text(std::string_view text, bool at_start, WordCache& cache,
                   std::vector<int32_t>& ids) const;
  void append_word(std::string_view word, WordCache& cache, std::vector<int32_t>& ids) const;

  TokenizerParts parts_;
  std::unique_ptr<WordModel> model_;
  AddedTokenMatcher raw_matcher_;         // tokens looked for in the text as it is
  AddedTokenMatcher normalized_matcher_;  // and in the normalized text
  std::unordered_map<int32_t, AddedToken> added_by_id_;
  std::unordered_map<std::string_view, int32_t> added_ids_;  // views into parts_
  int32_t vocab_size_ = 0;
  mutable WordCachePool caches_;
};

}  // namespace d2q
