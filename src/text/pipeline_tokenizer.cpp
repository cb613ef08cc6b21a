#include "text/pipeline_tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/utf8.h"

namespace d2q {
namespace {

AddedTokenMatcher make_matcher(const std::vector<AddedToken>& tokens, bool normalized,
                               const Normalizer* normalizer) {
  std::vector<AddedToken> chosen;
  std::vector<std::string> patterns;
  for (const AddedToken& token : tokens) {
    if (token.normalized != normalized) continue;
    chosen.push_back(token);
    patterns.push_back(token.content);
    if (normalized && normalizer != nullptr) normalizer->apply(patterns.back());
  }
  return AddedTokenMatcher(std::move(chosen), patterns);
}

std::unique_ptr<WordModel> make_model(const TokenizerParts& parts) {
  if (parts.unigram) {
    return std::make_unique<UnigramModel>(*parts.vocabulary, *parts.unigram, parts.source);
  }
  return std::make_unique<BpeModel>(*parts.vocabulary, parts.merges, parts.bpe, parts.source);
}

/// The end of the word that starts at `start`: before a space mark that follows another character.
size_t end_before_space_mark(std::string_view text, size_t start) {
  while (text.substr(start).starts_with(kSpaceMark)) start += kSpaceMark.size();
  return std::min(text.find(kSpaceMark, start), text.size());
}

}  // namespace

PipelineTokenizer::PipelineTokenizer(TokenizerParts parts)
    : parts_(std::move(parts)),
      model_(make_model(parts_)),
      raw_matcher_(make_matcher(parts_.added_tokens, false, nullptr)),
      normalized_matcher_(make_matcher(parts_.added_tokens, true, parts_.normalizer.get())),
      vocab_size_(parts_.vocabulary->size()) {
  parts_.merges = {};
  parts_.unigram = {};
  for (const AddedToken& token : parts_.added_tokens) {
    added_by_id_[token.id] = token;
    added_ids_[token.content] = token.id;
    vocab_size_ = std::max(vocab_size_, token.id + 1);
  }
}

std::vector<int32_t> PipelineTokenizer::encode(std::string_view text, bool add_special) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_malformed_utf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (add_special) ids = parts_.template_prefix;
  const WordCachePool::Loan cache(caches_);
  std::vector<AddedTokenPart> raw_parts;
  raw_matcher_.split(text, raw_parts);
  std::string normalized;
  std::vector<AddedTokenPart> parts;
  for (const AddedTokenPart& raw : raw_parts) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    std::string_view piece = raw.text;
    if (parts_.normalizer) {
      normalized = piece;
      parts_.normalizer->apply(normalized);
      piece = normalized;
    }
    parts.clear();
    normalized_matcher_.split(piece, parts);
    for (const AddedTokenPart& part : parts) {
      if (part.id) {
        ids.push_back(*part.id);
      } else {
        const bool at_start = raw.text.data() == text.data() && part.text.data() == piece.data();
        append_text(part.text, at_start, *cache, ids);
      }
    }
  }
  if (add_special) {
    ids.insert(ids.end(), parts_.template_suffix.begin(), parts_.template_suffix.end());
  }
  return ids;
}

void PipelineTokenizer::append_text(std::string_view text, bool at_start, WordCache& cache,
                                    std::vector<int32_t>& ids) const {
  const Words words = parts_.pre_tokenizers.split(text, at_start);
  if (!model_->may_cut_before_space_mark()) {
    for (const std::string_view word : words.words) append_word(word, cache, ids);
    return;
  }
  for (const std::string_view word : words.words) {
    for (size_t start = 0; start < word.size();) {
      const size_t end = end_before_space_mark(word, start);
      append_word(word.substr(start, end - start), cache, ids);
      start = end;
    }
  }
}

void PipelineTokenizer::append_word(std::string_view word, WordCache& cache,
                                    std::vector<int32_t>& ids) const {
  if (word.size() > WordCache::kMaxWordBytes) {
    model_->encode(word, ids);
    return;
  }
  WordCache::Entry& entry = cache.slot(word);
  if (!WordCache::holds(entry, word)) {
    const size_t before = ids.size();
    model_->encode(word, ids);
    const size_t n = ids.size() - before;
    if (n <= WordCache::kMaxIds) {
      WordCache::store(entry, word, std::span(ids).subspan(before, n));
    }
    return;
  }
  ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.n_ids);
}

std::string_view PipelineTokenizer::shown_token(int32_t id, bool special) const {
  const auto added = added_by_id_.find(id);
  if (added != added_by_id_.end()) {
    return added->second.special && !special ? std::string_view() : added->second.content;
  }
  const std::string* token = parts_.vocabulary->token(id);
  return token != nullptr ? *token : std::string_view();
}

std::string PipelineTokenizer::token_bytes(int32_t id, bool special) const {
  return parts_.decoder.bytes(shown_token(id, special));
}

std::string PipelineTokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::vector<std::string_view> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    const std::string_view token = shown_token(id, special);
    if (!token.empty()) tokens.push_back(token);
  }
  return parts_.decoder.text(tokens);
}

std::optional<int32_t> PipelineTokenizer::find_token(std::string_view text) const {
  const auto added = added_ids_.find(text);
  if (added != added_ids_.end()) return added->second;
  return parts_.vocabulary->find(text);
}

}  // namespace d2q
