// What the measurements look like in JSON, numbers unrounded; absent errors are null.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>

#include "eval/choice_tasks.h"
#include "eval/divergence.h"
#include "eval/perplexity.h"

namespace d2q {

nlohmann::json to_json(const PerplexityResult& result);
nlohmann::json to_json(const DivergenceResult& result);
/// Without its items.
nlohmann::json to_json(const ChoiceTaskResult& result);

/// {"tasks": {NAME: ...}, "average": {"acc", "acc_norm", "tasks"}}: the average is over the tasks
/// without examples (all but mmlu), null without one; acc_norm counts acc where a task has no
/// acc_norm.
nlohmann::json to_json(std::span<const ChoiceTaskResult> results);

/// A line of JSON for each item: {"task", "subject", "index" (in its subject), "gold",
/// "log_likelihoods", "chosen", "chosen_norm"}.
std::string items_to_json_lines(const ChoiceTask& task, const ChoiceTaskResult& result);

}  // namespace d2q
