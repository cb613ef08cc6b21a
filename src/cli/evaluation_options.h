// Options that the evaluating commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "eval/choice_tasks.h"
#include "eval/text_windows.h"

namespace d2q::cli {

/// --ctx, --stride, --windows, --limit-bytes.
void add_window_options(CLI::App& command, WindowOptions& options);

struct TaskOptions {
  std::vector<std::string> names;  // "all" stands for every task
  std::string data;
  int64_t limit = 0;
};

/// --tasks, --data, --limit.
void add_task_options(CLI::App& command, TaskOptions& options);

/// The tasks' items. Throws UsageError for an unknown name or when there is no --data, and what
/// read_choice_task() does.
std::vector<ChoiceTask> read_tasks(const TaskOptions& options);

}  // namespace d2q::cli
