#include "text/score_merges.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "text/bpe_model.h"
#include "text/utf8.h"

namespace d2q {
namespace {

// Longer pieces are not made by merging; the longest of known vocabularies have 48 characters.
constexpr size_t kMaxMergedBytes = 1024;

struct Merge {
  double score;
  size_t left_length;  // in characters
  size_t right_length;
  std::string_view left;
  std::string_view right;
  int32_t left_id;
  int32_t right_id;
};

/// Where each character of `token` ends, the last one left out.
std::vector<size_t> inner_bounds(std::string_view token) {
  std::vector<size_t> bounds;
  for (size_t at = next_valid_utf8(token, 0).length; at < token.size();
       at += next_valid_utf8(token, at).length) {
    bounds.push_back(at);
  }
  return bounds;
}

}  // namespace

nlohmann::json merges_from_scores(std::span<const std::string_view> tokens,
                                  std::span<const double> scores, const std::string& source) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids[tokens[id]] = static_cast<int32_t>(id);
  std::vector<Merge> merges;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    if (!std::isfinite(scores[id])) {
      fail(ErrorCode::kCorrupt, "{}: tokenizer.ggml.scores: token {} scores {}", source, id,
           scores[id]);
    }
    if (token.empty() || token.size() > kMaxMergedBytes) continue;
    const size_t first = merges.size();
    const std::vector<size_t> bounds = inner_bounds(token);
    for (size_t i = 0; i < bounds.size(); ++i) {
      const std::string_view left = token.substr(0, bounds[i]);
      const std::string_view right = token.substr(bounds[i]);
      const auto left_id = ids.find(left);
      const auto right_id = ids.find(right);
      if (left_id == ids.end() || right_id == ids.end()) continue;
      merges.push_back(
          {scores[id], i + 1, bounds.size() - i, left, right, left_id->second, right_id->second});
    }
    if (merges.size() > kMaxMerges) {
      fail(ErrorCode::kUnsupported, "{}: its scores make more than {} merges", source, kMaxMerges);
    }
    std::sort(merges.begin() + static_cast<ptrdiff_t>(first), merges.end(),
              [](const Merge& a, const Merge& b) {
                return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
              });
  }
  std::ranges::stable_sort(merges, [](const Merge& a, const Merge& b) {
    return std::tuple(a.score, a.left_length, a.right_length) >
           std::tuple(b.score, b.left_length, b.right_length);
  });
  nlohmann::json rules = nlohmann::json::array();
  for (const Merge& merge : merges) rules.push_back({merge.left, merge.right});
  return rules;
}

}  // namespace d2q
