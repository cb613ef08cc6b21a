// The items of the multiple-choice tasks: read from JSON lines and put into the words that
// lm-evaluation-harness puts them into.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace d2q {

struct Choice {
  std::string context;
  std::string continuation;
  int64_t n_characters = 0;  // of the answer, for acc_norm
};

struct ChoiceItem {
  std::vector<Choice> choices;
  int64_t gold = 0;
  int64_t subject = 0;  // index into ChoiceTask::subjects
};

struct ChoiceTask {
  std::string name;
  bool has_acc_norm = false;          // whether the harness reports it
  std::vector<std::string> subjects;  // "" where a task has none
  std::vector<ChoiceItem> items;
};

/// Names of all tasks: piqa, hellaswag, arc_easy, arc_challenge, winogrande, rte, openbookqa (no
/// examples) and mmlu (five examples a subject).
const std::vector<std::string>& choice_task_names();

/// Reads the task's file below `data`: the folder `data`/NAME or `data` itself holds one whose name
/// ends in its split (test or val, and mmlu's dev beside it). The first `limit` items (0 = all), of
/// each subject. Throws Error{kInvalidArgument} for an unknown task, Error{kNotFound} when there is
/// no file, Error{kCorrupt} naming the line that lacks a column.
ChoiceTask read_choice_task(const std::string& name, const std::filesystem::path& data,
                            int64_t limit);

}  // namespace d2q
