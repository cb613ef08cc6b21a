#include "eval/choice_tasks.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "eval/continuation_scorer.h"
#include "eval/harness_text.h"

namespace d2q {
namespace {

bool has_subjects(const ChoiceTask& task) { return !task.subjects.front().empty(); }

/// White space at a context's end belongs to the continuation, as tokenizers want it.
ContinuationRequest tokenize(const Tokenizer& tokenizer, const Choice& choice,
                             const std::vector<int32_t>& context, int64_t max_tokens,
                             int64_t family) {
  ContinuationRequest request;
  request.tokens = tokenizer.encode(choice.context + choice.continuation, /*add_special=*/true);
  request.family = family;
  const auto n = static_cast<int64_t>(request.tokens.size());
  request.n_scored = n - static_cast<int64_t>(context.size());
  if (request.n_scored < 1 || context.empty()) {
    fail(ErrorCode::kInvalidArgument,
         "tasks: \"{}\" after {} tokens of context leaves nothing to score", choice.continuation,
         context.size());
  }
  // A sequence of max_tokens + 1, since its last token is only predicted.
  if (max_tokens > 0 && n > max_tokens + 1) {
    request.tokens.erase(request.tokens.begin(), request.tokens.end() - (max_tokens + 1));
    request.n_scored = std::min(request.n_scored, max_tokens);
  }
  return request;
}

std::vector<ContinuationRequest> make_requests(ThreadPool& pool, const Tokenizer& tokenizer,
                                               const ChoiceTask& task, int64_t max_tokens) {
  std::vector<size_t> first(task.items.size() + 1);
  for (size_t i = 0; i < task.items.size(); ++i)
    first[i + 1] = first[i] + task.items[i].choices.size();
  std::vector<ContinuationRequest> requests(first.back());
  // A subject's items share its examples; without them each item is a family of its own.
  const bool by_subject = has_subjects(task);
  pool.parallel_for(static_cast<int64_t>(task.items.size()), [&](int64_t index, int) {
    const auto i = static_cast<size_t>(index);
    const ChoiceItem& item = task.items[i];
    std::string_view encoded;
    std::vector<int32_t> context;
    for (size_t c = 0; c < item.choices.size(); ++c) {
      const Choice& choice = item.choices[c];
      if (c == 0 || choice.context != encoded) {
        encoded = choice.context;
        const size_t length = encoded.size() - trailing_space(encoded);
        context = tokenizer.encode(encoded.substr(0, length), /*add_special=*/true);
      }
      requests[first[i] + c] =
          tokenize(tokenizer, choice, context, max_tokens, by_subject ? item.subject : index);
    }
  });
  return requests;
}

ScoredItem score_item(const ChoiceItem& item, std::span<const double> log_likelihoods) {
  ScoredItem result;
  result.log_likelihoods.assign(log_likelihoods.begin(), log_likelihoods.end());
  std::vector<double> normalised;
  for (size_t c = 0; c < item.choices.size(); ++c) {
    normalised.push_back(log_likelihoods[c] /
                         static_cast<double>(std::max<int64_t>(1, item.choices[c].n_characters)));
  }
  const auto first_largest = [](const auto& values) {
    return std::max_element(values.begin(), values.end()) - values.begin();
  };
  result.chosen = first_largest(result.log_likelihoods);
  result.chosen_norm = first_largest(normalised);
  return result;
}

}  // namespace

ChoiceTaskResult run_choice_task(Device& device, ThreadPool& pool, Transformer& transformer,
                                 const Tokenizer& tokenizer, const ChoiceTask& task,
                                 const ProgressSink& progress) {
  const auto start = std::chrono::steady_clock::now();
  const auto report = [&](const ProgressEvent& event) {
    if (progress) progress({task.name, event.done, event.total, event.detail});
  };
  report({"", 0, 1, "tokenizing"});
  const auto requests = make_requests(pool, tokenizer, task, transformer.config().max_positions);
  const auto scores = score_continuations(device, transformer, requests, report);

  ChoiceTaskResult result;
  result.name = task.name;
  std::vector<double> hits;
  std::vector<double> hits_norm;
  std::vector<std::vector<double>> by_subject(task.subjects.size());
  size_t at = 0;
  for (const ChoiceItem& item : task.items) {
    const size_t n = item.choices.size();
    result.items.push_back(score_item(item, std::span(scores).subspan(at, n)));
    at += n;
    hits.push_back(result.items.back().chosen == item.gold ? 1.0 : 0.0);
    hits_norm.push_back(result.items.back().chosen_norm == item.gold ? 1.0 : 0.0);
    by_subject[static_cast<size_t>(item.subject)].push_back(hits.back());
  }
  result.acc = estimate_mean(hits);
  if (task.has_acc_norm) result.acc_norm = estimate_mean(hits_norm);
  if (has_subjects(task)) {
    for (size_t s = 0; s < task.subjects.size(); ++s) {
      result.subjects.push_back({task.subjects[s], estimate_mean(by_subject[s]),
                                 static_cast<int64_t>(by_subject[s].size())});
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace d2q
