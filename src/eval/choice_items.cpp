#include "eval/choice_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/harness_text.h"
#include "format/json_file.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMaxTaskBytes = uint64_t{1} << 30;
constexpr size_t kMaxChoices = 26;
constexpr int64_t kMmluExamples = 5;

/// One line of a task's file.
class Record {
 public:
  Record(const json& value, const std::string& place) : value_(value), place_(place) {}

  bool has(const char* column) const { return value_.contains(column); }
  std::string text(const char* column) const {
    const auto found = value_.find(column);
    if (found == value_.end() || !found->is_string())
      fail(ErrorCode::kCorrupt, "{} has no string \"{}\"; a file of another task?", place_, column);
    return found->get<std::string>();
  }
  const json& at(const char* column) const {
    const auto found = value_.find(column);
    if (found == value_.end())
      fail(ErrorCode::kCorrupt, "{} has no \"{}\"; a file of another task?", place_, column);
    return *found;
  }
  /// A number that may be written as a string.
  int64_t number(const char* column) const {
    const json& value = at(column);
    if (value.is_number_integer()) return value.get<int64_t>();
    if (value.is_string()) {
      const auto text = value.get<std::string>();
      if (text.size() == 1 && text[0] >= '0' && text[0] <= '9') return text[0] - '0';
    }
    fail(ErrorCode::kCorrupt, "{}: \"{}\" is not a number", place_, column);
  }
  std::vector<std::string> texts(const json& list, const char* column) const {
    std::vector<std::string> result;
    if (list.is_array() && list.size() >= 2 && list.size() <= kMaxChoices) {
      for (const json& entry : list)
        if (entry.is_string()) result.push_back(entry.get<std::string>());
    }
    if (result.empty() || result.size() != list.size()) {
      fail(ErrorCode::kCorrupt, "{}: \"{}\" is not a list of 2 to {} strings", place_, column,
           kMaxChoices);
    }
    return result;
  }
  [[noreturn]] void reject(const std::string& what) const {
    fail(ErrorCode::kCorrupt, "{}: {}", place_, what);
  }
  const std::string& place() const { return place_; }

 private:
  const json& value_;
  const std::string& place_;
};

/// `answers` after one context.
ChoiceItem make_item(const Record& record, const std::string& context,
                     const std::vector<std::string>& answers, int64_t gold) {
  ChoiceItem item;
  for (const std::string& answer : answers)
    item.choices.push_back({context, " " + answer, count_characters(answer)});
  if (gold < 0 || gold >= static_cast<int64_t>(answers.size()))
    record.reject(fmt::format("answer {} of {} choices", gold, answers.size()));
  item.gold = gold;
  return item;
}

/// A question with lettered choices, in any of three forms: choices as a list with `gold`; choices
/// as {"text": [...], "label": [...]} with "answerKey"; or both inside "question" with "stem".
ChoiceItem lettered_item(const Record& record, const char* question_column,
                         const char* context_format) {
  const auto context = [&](const std::string& question) {
    return fmt::format(fmt::runtime(context_format), question);
  };
  if (record.has("gold")) {
    return make_item(record, context(record.text(question_column)),
                     record.texts(record.at("choices"), "choices"), record.number("gold"));
  }
  std::string question;
  json texts = json::array();
  json labels = json::array();
  const auto add = [&](const json& entry) {
    if (!entry.is_object() || !entry.contains("text") || !entry.contains("label"))
      record.reject("a choice has no \"text\" or no \"label\"");
    texts.push_back(entry["text"]);
    labels.push_back(entry["label"]);
  };
  if (record.has("question") && record.at("question").is_object()) {
    const Record inner(record.at("question"), record.place());
    question = inner.text("stem");
    if (!inner.at("choices").is_array()) record.reject("\"choices\" is not a list");
    for (const json& entry : inner.at("choices")) add(entry);
  } else {
    question = record.text(question_column);
    const Record choices(record.at("choices"), record.place());
    texts = choices.at("text");
    labels = choices.at("label");
  }
  const std::string key(strip(record.text("answerKey")));
  const auto names = record.texts(labels, "label");
  const auto found = std::find(names.begin(), names.end(), key);
  if (found == names.end()) record.reject(fmt::format("answer '{}' is no choice's label", key));
  return make_item(record, context(question), record.texts(texts, "text"), found - names.begin());
}

ChoiceItem piqa_item(const Record& record) {
  return make_item(record, fmt::format("Question: {}\nAnswer:", record.text("goal")),
                   {record.text("sol1"), record.text("sol2")}, record.number("label"));
}

ChoiceItem hellaswag_item(const Record& record) {
  if (record.has("query")) {
    return make_item(record, record.text("query"), record.texts(record.at("choices"), "choices"),
                     record.number("gold"));
  }
  std::vector<std::string> endings = record.texts(record.at("endings"), "endings");
  for (std::string& ending : endings) ending = clean_hellaswag(ending);
  return make_item(record,
                   clean_hellaswag(record.text("activity_label") + ": " + record.text("ctx_a") +
                                   " " + capitalize(record.text("ctx_b"))),
                   endings, record.number("label"));
}

ChoiceItem arc_item(const Record& record) {
  return lettered_item(record, "question", "Question: {}\nAnswer:");
}

ChoiceItem openbookqa_item(const Record& record) {
  return lettered_item(record, "question_stem", "{}");
}

/// Both options are put into the sentence's gap; what is scored is the rest of the sentence.
ChoiceItem winogrande_item(const Record& record) {
  const std::string sentence = record.text("sentence");
  const size_t gap = sentence.find('_');
  if (gap == std::string::npos) record.reject("\"sentence\" has no gap '_'");
  const std::string rest(strip(std::string_view(sentence).substr(gap + 1)));
  ChoiceItem item;
  for (const char* option : {"option1", "option2"}) {
    item.choices.push_back(
        {sentence.substr(0, gap) + record.text(option), " " + rest, count_characters(rest)});
  }
  item.gold = record.number("answer") - 1;
  if (item.gold != 0 && item.gold != 1) record.reject("\"answer\" is neither 1 nor 2");
  return item;
}

ChoiceItem rte_item(const Record& record) {
  const bool glue = record.has("sentence1");
  const std::string premise = record.text(glue ? "sentence1" : "premise");
  const std::string hypothesis = record.text(glue ? "sentence2" : "hypothesis");
  int64_t gold = 0;
  if (record.at("label").is_string() && record.text("label").size() > 1) {
    const std::string label = record.text("label");
    if (label != "entailment" && label != "not_entailment")
      record.reject(fmt::format("label '{}' is neither entailment nor not_entailment", label));
    gold = label == "entailment" ? 0 : 1;
  } else {
    gold = record.number("label");
  }
  return make_item(record, premise + "\nQuestion: " + hypothesis + " True or False?\nAnswer:",
                   {"True", "False"}, gold);
}

int64_t mmlu_answer(const Record& record) {
  const json& answer = record.at("answer");
  if (answer.is_string()) {
    const auto letter = answer.get<std::string>();
    if (letter.size() == 1 && letter[0] >= 'A' && letter[0] <= 'D') return letter[0] - 'A';
  }
  return record.number("answer");
}

std::string mmlu_question(const Record& record) {
  const auto choices = record.texts(record.at("choices"), "choices");
  if (choices.size() != 4) record.reject(fmt::format("{} choices, not 4", choices.size()));
  const std::string question = record.text("question");
  return fmt::format("{}\nA. {}\nB. {}\nC. {}\nD. {}\nAnswer:", strip(question), choices[0],
                     choices[1], choices[2], choices[3]);
}

const std::vector<std::string> kLetters = {"A", "B", "C", "D"};

/// The five examples of each subject, from the dev split, under the harness's heading.
std::map<std::string, std::string> read_mmlu_prompts(const fs::path& path) {
  std::map<std::string, std::string> prompts;
  std::map<std::string, int64_t> counts;
  for_each_json_line(
      read_file(path, kMaxTaskBytes), path.string(), [&](const json& value, const auto& place) {
        const Record record(value, place);
        const std::string subject = record.text("subject");
        std::string& prompt = prompts[subject];
        if (prompt.empty()) {
          prompt = fmt::format(
              "The following are multiple choice questions (with answers) about {}.\n\n",
              replace_all(subject, "_", " "));
        }
        if (++counts[subject] > kMmluExamples) return;
        const int64_t answer = mmlu_answer(record);
        if (answer < 0 || answer >= 4) record.reject(fmt::format("answer {} of 4", answer));
        prompt += mmlu_question(record) + " " + kLetters[static_cast<size_t>(answer)] + "\n\n";
      });
  for (const auto& [subject, count] : counts) {
    if (count < kMmluExamples) {
      fail(ErrorCode::kCorrupt, "{}: {} examples of {}, not {}", path.string(), count, subject,
           kMmluExamples);
    }
  }
  return prompts;
}

struct Definition {
  bool has_acc_norm;
  std::vector<std::string> splits;  // ends of file names, the first that is there
  ChoiceItem (*read)(const Record& record);
};

const std::map<std::string, Definition>& definitions() {
  const std::vector<std::string> test = {"test"};
  const std::vector<std::string> validation = {"val", "validation", "valid", "dev"};
  static const std::map<std::string, Definition> kDefinitions = {
      {"piqa", {true, validation, piqa_item}},
      {"hellaswag", {true, validation, hellaswag_item}},
      {"arc_easy", {true, test, arc_item}},
      {"arc_challenge", {true, test, arc_item}},
      {"winogrande", {false, validation, winogrande_item}},
      {"rte", {false, validation, rte_item}},
      {"openbookqa", {true, test, openbookqa_item}}};
  return kDefinitions;
}

/// The jsonl file of `task` whose name ends in one of `splits`: in `data`/TASK any such, in `data`
/// one whose name begins with the task's.
fs::path find_file(const fs::path& data, const std::string& task,
                   const std::vector<std::string>& splits) {
  std::error_code error;
  for (const fs::path& folder : {data / task, data}) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      const bool named = folder != data || entry.path().filename().string().starts_with(task);
      if (entry.path().extension() == ".jsonl" && named) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const std::string& split : splits) {
      for (const fs::path& file : files)
        if (file.stem().string().ends_with(split)) return file;
    }
  }
  fail(ErrorCode::kNotFound,
       "{}: no file for task {}; expected {}/*{}.jsonl there, one JSON object a line",
       data.string(), task, task, splits.front());
}

ChoiceTask read_mmlu(const fs::path& data, int64_t limit) {
  const auto prompts = read_mmlu_prompts(find_file(data, "mmlu", {"dev"}));
  const fs::path path = find_file(data, "mmlu", {"test"});
  ChoiceTask task{"mmlu", false, {}, {}};
  std::map<std::string, int64_t> indices;
  std::vector<int64_t> counts;
  for_each_json_line(
      read_file(path, kMaxTaskBytes), path.string(), [&](const json& value, const auto& place) {
        const Record record(value, place);
        const std::string subject = record.text("subject");
        const auto [entry, is_new] =
            indices.emplace(subject, static_cast<int64_t>(task.subjects.size()));
        if (is_new) {
          task.subjects.push_back(subject);
          counts.push_back(0);
        }
        int64_t& count = counts[static_cast<size_t>(entry->second)];
        if (limit > 0 && count >= limit) return;
        ++count;
        const auto prompt = prompts.find(subject);
        if (prompt == prompts.end())
          record.reject(fmt::format("subject '{}' has no examples in the dev file", subject));
        ChoiceItem item = make_item(record, prompt->second + mmlu_question(record), kLetters,
                                    mmlu_answer(record));
        item.subject = entry->second;
        task.items.push_back(std::move(item));
      });
  return task;
}

}  // namespace

const std::vector<std::string>& choice_task_names() {
  static const std::vector<std::string> kNames = {
      "piqa", "hellaswag", "arc_easy", "arc_challenge", "winogrande", "rte", "openbookqa", "mmlu"};
  return kNames;
}

ChoiceTask read_choice_task(const std::string& name, const fs::path& data, int64_t limit) {
  const auto& names = choice_task_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    fail(ErrorCode::kInvalidArgument, "tasks: '{}' is none of {}", name, fmt::join(names, ", "));
  }
  if (limit < 0) fail(ErrorCode::kInvalidArgument, "limit: {} must be 0 (all) or positive", limit);
  ChoiceTask task;
  if (name == "mmlu") {
    task = read_mmlu(data, limit);
  } else {
    const Definition& definition = definitions().at(name);
    const fs::path path = find_file(data, name, definition.splits);
    task = {name, definition.has_acc_norm, {""}, {}};
    for_each_json_line(read_file(path, kMaxTaskBytes), path.string(),
                       [&](const json& value, const auto& place) {
                         if (limit > 0 && static_cast<int64_t>(task.items.size()) >= limit) return;
                         task.items.push_back(definition.read(Record(value, place)));
                       });
  }
  if (task.items.empty()) fail(ErrorCode::kCorrupt, "{}: no items of task {}", data.string(), name);
  return task;
}

}  // namespace d2q
