// Multiple-choice tasks, scored as lm-evaluation-harness scores them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "eval/choice_items.h"
#include "eval/estimate.h"
#include "model/transformer.h"
#include "text/tokenizer.h"

namespace d2q {

/// One item's outcome.
struct ScoredItem {
  std::vector<double> log_likelihoods;  // a choice, in nats
  int64_t chosen = 0;                   // the most likely choice, the first of equals
  int64_t chosen_norm = 0;              // the most likely a character
};

struct SubjectResult {
  std::string name;
  Estimate acc;
  int64_t items = 0;
};

struct ChoiceTaskResult {
  std::string name;
  Estimate acc;
  std::optional<Estimate> acc_norm;     // where the harness reports it
  std::vector<SubjectResult> subjects;  // mmlu's; acc is over all of its items
  std::vector<ScoredItem> items;        // in the task's order
  double seconds = 0.0;
};

/// Scores every item. Contexts and continuations are tokenized together, special tokens as the
/// tokenizer adds them, and split where the context alone ends; what exceeds the model's positions
/// is cut from the left. Throws what score_continuations() does.
ChoiceTaskResult run_choice_task(Device& device, ThreadPool& pool, Transformer& transformer,
                                 const Tokenizer& tokenizer, const ChoiceTask& task,
                                 const ProgressSink& progress);

}  // namespace d2q
