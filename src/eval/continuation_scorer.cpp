#include "eval/continuation_scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/error.h"
#include "eval/token_losses.h"

namespace d2q {
namespace {

// Rows that go through the blocks together, and rows of keys that a batch may make attention read.
constexpr int64_t kBatchRows = 4096;
constexpr int64_t kBatchKeys = 1 << 16;
// Prefixes of one length run together; lengths are cut to multiples of this so that few differ.
constexpr int64_t kPrefixStep = 4;

/// Tokens that run once, and the requests that are scored on them: several when only their last
/// tokens differ, which no position sees.
struct Run {
  std::span<const int32_t> tokens;  // without the last one
  std::vector<size_t> requests;
};

/// Runs that begin with the same `prefix` tokens.
struct Family {
  std::vector<Run> runs;
  int64_t prefix = 0;
};

std::span<const int32_t> fed_tokens(const ContinuationRequest& request) {
  return std::span(request.tokens).first(request.tokens.size() - 1);
}

/// The row of `request`'s run whose prediction is its first scored token.
int64_t first_row(const ContinuationRequest& request) {
  return static_cast<int64_t>(request.tokens.size()) - request.n_scored - 1;
}

Family make_family(std::span<const ContinuationRequest> requests, std::vector<size_t> members) {
  const auto less = [&](size_t a, size_t b) {
    const auto x = fed_tokens(requests[a]);
    const auto y = fed_tokens(requests[b]);
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end());
  };
  std::stable_sort(members.begin(), members.end(), less);
  Family family;
  int64_t unscored = std::numeric_limits<int64_t>::max();
  for (const size_t member : members) {
    const auto tokens = fed_tokens(requests[member]);
    if (family.runs.empty() || !std::ranges::equal(family.runs.back().tokens, tokens))
      family.runs.push_back({tokens, {}});
    family.runs.back().requests.push_back(member);
    unscored = std::min(unscored, first_row(requests[member]));
  }
  if (family.runs.size() > 1) {
    // In sorted order the first and the last differ the earliest.
    const auto first = family.runs.front().tokens;
    const auto last = family.runs.back().tokens;
    const auto common =
        std::mismatch(first.begin(), first.end(), last.begin(), last.end()).first - first.begin();
    // The row before the first scored token belongs to the continuation's run.
    family.prefix = std::min<int64_t>(common, unscored) / kPrefixStep * kPrefixStep;
  }
  return family;
}

class Scorer {
 public:
  Scorer(Device& device, Transformer& transformer, std::span<const ContinuationRequest> requests,
         const ProgressSink& progress)
      : device_(device),
        transformer_(transformer),
        requests_(requests),
        progress_(progress),
        scores_(requests.size()) {}

  /// Families that share no prefix.
  void run_alone(const std::vector<const Family*>& families) {
    std::vector<Job> jobs;
    for (const Family* family : families)
      for (const Run& run : family->runs) jobs.push_back({&run, 0});
    run_jobs(std::move(jobs), nullptr);
  }

  /// Families with prefixes of `length` tokens.
  void run_with_prefixes(const std::vector<const Family*>& families, int64_t length) {
    const auto at_once = static_cast<size_t>(std::max<int64_t>(1, kBatchRows / length));
    for (size_t begin = 0; begin < families.size(); begin += at_once) {
      const size_t end = std::min(families.size(), begin + at_once);
      std::vector<int32_t> ids;
      std::vector<Job> jobs;
      for (size_t i = begin; i < end; ++i) {
        const auto tokens = families[i]->runs.front().tokens.first(static_cast<size_t>(length));
        ids.insert(ids.end(), tokens.begin(), tokens.end());
        for (const Run& run : families[i]->runs)
          jobs.push_back({&run, static_cast<int32_t>(i - begin)});
      }
      const PrefixStates states = transformer_.run_prefixes(ids, length);
      run_jobs(std::move(jobs), &states);
    }
  }

  std::vector<double> scores() && { return std::move(scores_); }

 private:
  struct Job {
    const Run* run;
    int32_t parent;  // its prefix
    int64_t length(const PrefixStates* prefixes) const {
      return static_cast<int64_t>(run->tokens.size()) -
             (prefixes == nullptr ? 0 : prefixes->length());
    }
  };

  /// All of them, the longest first.
  void run_jobs(std::vector<Job> jobs, const PrefixStates* prefixes) {
    std::stable_sort(jobs.begin(), jobs.end(), [&](const Job& a, const Job& b) {
      return a.length(prefixes) > b.length(prefixes);
    });
    const int64_t past = prefixes == nullptr ? 0 : prefixes->length();
    for (size_t begin = 0; begin < jobs.size();) {
      const int64_t length = jobs[begin].length(prefixes);
      const int64_t most =
          std::max<int64_t>(1, std::min(kBatchRows / length, kBatchKeys / (past + length)));
      const size_t count = std::min(jobs.size() - begin, static_cast<size_t>(most));
      run_batch(std::span(jobs).subspan(begin, count), length, prefixes);
      begin += count;
    }
  }

  void run_batch(std::span<const Job> jobs, int64_t length, const PrefixStates* prefixes) {
    const int64_t past = prefixes == nullptr ? 0 : prefixes->length();
    std::vector<int32_t> ids;
    std::vector<int32_t> parents;
    for (const Job& job : jobs) {
      const auto tokens = job.run->tokens.subspan(static_cast<size_t>(past));
      ids.insert(ids.end(), tokens.begin(), tokens.end());
      ids.resize(ids.size() + static_cast<size_t>(length) - tokens.size());  // padding: token 0
      parents.push_back(job.parent);
    }
    const Tensor hidden = prefixes == nullptr
                              ? transformer_.forward_hidden(ids, length)
                              : transformer_.forward_hidden(ids, length, *prefixes, parents);
    std::vector<int32_t> rows;
    std::vector<int32_t> targets;
    for (size_t i = 0; i < jobs.size(); ++i) {
      for (const size_t index : jobs[i].run->requests) {
        const ContinuationRequest& request = requests_[index];
        const int64_t begin = static_cast<int64_t>(i) * length + first_row(request) - past;
        for (int64_t t = 0; t < request.n_scored; ++t)
          rows.push_back(static_cast<int32_t>(begin + t));
        const auto scored = std::span(request.tokens).last(static_cast<size_t>(request.n_scored));
        targets.insert(targets.end(), scored.begin(), scored.end());
      }
    }
    const Tensor gathered =
        device_.allocate(static_cast<int64_t>(rows.size()), hidden.cols(), DType::kF32);
    device_.embed(rows, hidden, gathered);
    std::vector<double> losses(rows.size());
    token_losses(device_, transformer_, gathered, targets, losses);
    size_t at = 0;
    for (const Job& job : jobs) {
      for (const size_t index : job.run->requests) {
        const auto n = static_cast<size_t>(requests_[index].n_scored);
        const auto begin = losses.begin() + static_cast<std::ptrdiff_t>(at);
        scores_[index] = -std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(n), 0.0);
        if (!std::isfinite(scores_[index])) {
          fail(ErrorCode::kNumeric,
               "log-likelihood: request {} gives {}; damaged or overflowing weights?", index,
               scores_[index]);
        }
        at += n;
        ++done_;
      }
    }
    if (progress_) progress_({"score", done_, static_cast<int64_t>(requests_.size()), ""});
  }

  Device& device_;
  Transformer& transformer_;
  std::span<const ContinuationRequest> requests_;
  const ProgressSink& progress_;
  std::vector<double> scores_;
  int64_t done_ = 0;
};

}  // namespace

std::vector<double> score_continuations(Device& device, Transformer& transformer,
                                        std::span<const ContinuationRequest> requests,
                                        const ProgressSink& progress) {
  const int64_t vocab_size = transformer.config().vocab_size;
  std::map<int64_t, std::vector<size_t>> members;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto length = static_cast<int64_t>(requests[i].tokens.size());
    D2Q_CHECK(requests[i].n_scored >= 1 && requests[i].n_scored < length, "request {}: {} of {}", i,
              requests[i].n_scored, length);
    for (const int32_t id : requests[i].tokens) {
      if (id < 0 || id >= vocab_size) {
        fail(ErrorCode::kInvalidArgument,
             "token id {} is outside the model's vocabulary of {}; does the tokenizer belong to "
             "this model?",
             id, vocab_size);
      }
    }
    members[requests[i].family].push_back(i);
  }
  std::vector<Family> families;
  for (auto& [key, indices] : members) {
    families.push_back(make_family(requests, std::move(indices)));
    // Where angles depend on a sequence's length, a prefix has other keys than the whole.
    if (transformer.config().rope_scaling.depends_on_length()) families.back().prefix = 0;
  }
  std::map<int64_t, std::vector<const Family*>> by_prefix;
  for (const Family& family : families) by_prefix[family.prefix].push_back(&family);

  Scorer scorer(device, transformer, requests, progress);
  for (const auto& [prefix, group] : by_prefix) {
    if (prefix == 0)
      scorer.run_alone(group);
    else
      scorer.run_with_prefixes(group, prefix);
  }
  return std::move(scorer).scores();
}

}  // namespace d2q
