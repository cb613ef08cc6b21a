#include "eval/result_json.h"

#include <nlohmann/json.hpp>

namespace d2q {
namespace {

using nlohmann::json;

json or_null(const std::optional<double>& value) { return value ? json(*value) : json(nullptr); }

}  // namespace

json to_json(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"nll", result.nll},
          {"nll_standard_error", or_null(result.nll_standard_error)},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"ctx", result.ctx},
          {"stride", result.stride},
          {"seconds", result.seconds}};
}

json to_json(const DivergenceResult& result) {
  return {{"kld", result.kld.mean},
          {"kld_standard_error", or_null(result.kld.standard_error)},
          {"kld_median", result.median},
          {"kld_99_9", result.percentile_99_9},
          {"kld_maximum", result.maximum},
          {"top_agreement", result.top_agreement.mean},
          {"top_agreement_standard_error", or_null(result.top_agreement.standard_error)},
          {"rms_probability_difference", result.rms_probability},
          {"mean_probability_difference", result.mean_probability},
          {"perplexity", result.perplexity},
          {"reference_perplexity", result.reference_perplexity},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"ctx", result.ctx},
          {"stride", result.stride},
          {"seconds", result.seconds}};
}

json to_json(const ChoiceTaskResult& result) {
  json value = {{"acc", result.acc.mean},
                {"acc_standard_error", or_null(result.acc.standard_error)},
                {"items", result.items.size()},
                {"seconds", result.seconds}};
  if (result.acc_norm) {
    value["acc_norm"] = result.acc_norm->mean;
    value["acc_norm_standard_error"] = or_null(result.acc_norm->standard_error);
  }
  for (const SubjectResult& subject : result.subjects) {
    value["subjects"][subject.name] = {{"acc", subject.acc.mean},
                                       {"acc_standard_error", or_null(subject.acc.standard_error)},
                                       {"items", subject.items}};
  }
  return value;
}

json to_json(std::span<const ChoiceTaskResult> results) {
  json tasks = json::object();
  std::vector<double> acc;
  std::vector<double> acc_norm;
  for (const ChoiceTaskResult& result : results) {
    tasks[result.name] = to_json(result);
    if (!result.subjects.empty()) continue;
    acc.push_back(result.acc.mean);
    acc_norm.push_back(result.acc_norm.value_or(result.acc).mean);
  }
  json average = nullptr;
  if (!acc.empty()) {
    average = {{"acc", estimate_mean(acc).mean},
               {"acc_norm", estimate_mean(acc_norm).mean},
               {"tasks", acc.size()}};
  }
  return {{"tasks", std::move(tasks)}, {"average", std::move(average)}};
}

std::string items_to_json_lines(const ChoiceTask& task, const ChoiceTaskResult& result) {
  std::string lines;
  std::vector<int64_t> counts(task.subjects.size());
  for (size_t i = 0; i < task.items.size(); ++i) {
    const auto subject = static_cast<size_t>(task.items[i].subject);
    const json line = {{"task", task.name},
                       {"subject", task.subjects[subject]},
                       {"index", counts[subject]++},
                       {"gold", task.items[i].gold},
                       {"log_likelihoods", result.items[i].log_likelihoods},
                       {"chosen", result.items[i].chosen},
                       {"chosen_norm", result.items[i].chosen_norm}};
    lines += line.dump() + "\n";
  }
  return lines;
}

}  // namespace d2q
