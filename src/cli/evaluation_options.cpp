#include "cli/evaluation_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/usage.h"

namespace d2q::cli {

void add_window_options(CLI::App& command, WindowOptions& options) {
  command.add_option("--ctx", options.ctx, "Tokens a window")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20));
  command
      .add_option(
          "--stride", options.stride,
          "Tokens from one window to the next; below --ctx windows overlap, and each scores "
          "only the tokens that the one before did not see; 0 is --ctx")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  command.add_option("--windows", options.max_windows, "Score only the first N windows; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  command
      .add_option("--limit-bytes", options.limit_bytes,
                  "Read only the first N bytes of the text; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 36));
}

void add_task_options(CLI::App& command, TaskOptions& options) {
  command
      .add_option("--tasks", options.names,
                  fmt::format("Tasks, with commas between them, or all: {}",
                              fmt::join(choice_task_names(), ", ")))
      ->delimiter(',');
  command.add_option(
      "--data", options.data,
      "Folder with the tasks' files: TASK/*.jsonl, the split at the end of the name");
  command
      .add_option("--limit", options.limit,
                  "Only the first N items of each task, and of each subject of mmlu; 0 is all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
}

std::vector<ChoiceTask> read_tasks(const TaskOptions& options) {
  std::vector<std::string> names = options.names;
  if (names == std::vector<std::string>{"all"}) names = choice_task_names();
  if (!names.empty() && options.data.empty())
    throw UsageError("--tasks needs --data, the folder with their files");
  std::vector<ChoiceTask> tasks;
  for (const std::string& name : names) {
    if (std::ranges::count(names, name) > 1)
      throw UsageError(fmt::format("--tasks: {} is named twice", name));
    tasks.push_back(as_usage([&] { return read_choice_task(name, options.data, options.limit); }));
  }
  return tasks;
}

}  // namespace d2q::cli
