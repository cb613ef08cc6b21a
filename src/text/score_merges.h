// SentencePiece's BPE keeps a score for each piece and no merges; a merge's rank follows from the
// score of what it makes.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace d2q {

/// [["left", "right"], ...] in rank order: every way to make a piece of two others, higher scores
/// first, and of equal ones those with the longer left part. scores: [tokens.size()]. Throws
/// Error{kCorrupt}, naming `source`, for a score that is not finite, Error{kUnsupported} for more
/// than kMaxMerges.
nlohmann::json merges_from_scores(std::span<const std::string_view> tokens,
                                  std::span<const double> scores, const std::string& source);

}  // namespace d2q
