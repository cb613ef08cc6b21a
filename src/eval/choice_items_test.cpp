#include "eval/choice_items.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>

#include "base/error.h"

namespace d2q {
namespace {

namespace fs = std::filesystem;

// Contexts and continuations expected here are what lm-evaluation-harness 0.4.13 builds from the
// same records; tools/compare_lm_eval.py compares whole files.
class ChoiceItems : public ::testing::Test {
 protected:
  ChoiceItems() {
    folder_ = fs::path(testing::TempDir()) /
              ("choice_items_" +
               std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ChoiceItems() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& content) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << content;
  }
  ChoiceItem only_item(const std::string& task) {
    const ChoiceTask read = read_choice_task(task, folder_, 0);
    EXPECT_EQ(read.items.size(), 1u);
    return read.items.at(0);
  }
  std::string error(const std::string& task) {
    try {
      read_choice_task(task, folder_, 0);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(ChoiceItems, piqa) {
  write("piqa/piqa_val.jsonl",
        R"({"goal": "dry", "sol1": "use sun", "sol2": "use rain \u00e9", "label": 1})");
  const ChoiceItem item = only_item("piqa");
  EXPECT_EQ(item.choices[0].context, "Question: dry\nAnswer:");
  EXPECT_EQ(item.choices[1].continuation, " use rain \xc3\xa9");
  EXPECT_EQ(item.choices[1].n_characters, 10);
  EXPECT_EQ(item.gold, 1);
}

TEST_F(ChoiceItems, hellaswag_prepared_or_as_released) {
  write("hellaswag/hellaswag_val.jsonl",
        R"({"query": "Roof: A man. He", "choices": ["sits.", "runs."], "gold": 0})");
  EXPECT_EQ(only_item("hellaswag").choices[0].context, "Roof: A man. He");
  write("hellaswag/hellaswag_val.jsonl",
        R"({"activity_label": "Roof", "ctx_a": "A man.", "ctx_b": "he [title] X", "endings":)"
        R"( ["sits [step] down.", "runs."], "label": "1"})");
  const ChoiceItem item = only_item("hellaswag");
  EXPECT_EQ(item.choices[0].context, "Roof: A man. He. x");
  EXPECT_EQ(item.choices[0].continuation, " sits down.");
  EXPECT_EQ(item.gold, 1);
}

TEST_F(ChoiceItems, arc_and_openbookqa_in_all_three_forms) {
  const std::vector<std::string> forms = {
      R"({"QUESTION": "Why?", "choices": ["so", "not so"], "gold": 1})",
      R"({"QUESTION": "Why?", "choices": {"text": ["so", "not so"], "label": ["1", "2"]},)"
      R"( "answerKey": "2"})",
      R"({"question": {"stem": "Why?", "choices": [{"text": "so", "label": "A"},)"
      R"( {"text": "not so", "label": "B"}]}, "answerKey": " B"})"};
  const std::vector<std::array<std::string, 3>> tasks = {
      {"arc_easy", "question", "Question: Why?\nAnswer:"},
      {"arc_challenge", "question", "Question: Why?\nAnswer:"},
      {"openbookqa", "question_stem", "Why?"}};
  for (const auto& [task, column, context] : tasks) {
    for (std::string form : forms) {
      const size_t at = form.find("QUESTION");
      if (at != std::string::npos) form.replace(at, 8, column);
      write(task + "/" + task + "_test.jsonl", form);
      const ChoiceItem item = only_item(task);
      EXPECT_EQ(item.choices[0].context, context);
      EXPECT_EQ(item.choices[1].continuation, " not so");
      EXPECT_EQ(item.gold, 1) << form;
    }
  }
}

TEST_F(ChoiceItems, winogrande_scores_the_rest_of_the_sentence) {
  write("winogrande/winogrande_xl_val.jsonl",
        R"({"sentence": "Ann met Eva so _ was glad . ", "option1": "Ann", "option2": "Eva",)"
        R"( "answer": "2"})");
  const ChoiceItem item = only_item("winogrande");
  EXPECT_EQ(item.choices[0].context, "Ann met Eva so Ann");
  EXPECT_EQ(item.choices[1].context, "Ann met Eva so Eva");
  EXPECT_EQ(item.choices[1].continuation, " was glad .");
  EXPECT_EQ(item.gold, 1);
}

TEST_F(ChoiceItems, rte_with_either_release_s_columns) {
  write("rte/rte_val.jsonl", R"({"sentence1": "A is.", "sentence2": "B is.", "label": 1})");
  EXPECT_EQ(only_item("rte").choices[0].context, "A is.\nQuestion: B is. True or False?\nAnswer:");
  EXPECT_EQ(only_item("rte").choices[1].continuation, " False");
  EXPECT_EQ(only_item("rte").gold, 1);
  write("rte/rte_val.jsonl",
        R"({"premise": "A is.", "hypothesis": "B is.", "label": "entailment"})");
  EXPECT_EQ(only_item("rte").gold, 0);
}

TEST_F(ChoiceItems, mmlu_puts_five_examples_of_the_subject_first) {
  std::string dev;
  for (int i = 0; i < 6; ++i) {
    dev += R"({"subject": "college_art", "question": " Q)" + std::to_string(i) +
           R"( ", "choices": ["a", "b", "c", "d"], "answer": )" + std::to_string(i % 4) + "}\n";
  }
  write("mmlu/mmlu_dev.jsonl", dev);
  write("mmlu/mmlu_test.jsonl",
        R"({"subject": "college_art", "question": "Last", "choices": ["w", "x", "y", "z"],)"
        R"( "answer": "C"})");
  const ChoiceItem item = only_item("mmlu");
  const std::string& context = item.choices[0].context;
  EXPECT_TRUE(context.starts_with(
      "The following are multiple choice questions (with answers) about college art.\n\n"
      "Q0\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\nQ1\n"))
      << context;
  EXPECT_TRUE(context.ends_with("Answer: A\n\nLast\nA. w\nB. x\nC. y\nD. z\nAnswer:")) << context;
  EXPECT_EQ(context.find("Q5"), std::string::npos);
  EXPECT_EQ(item.choices[2].continuation, " C");
  EXPECT_EQ(item.gold, 2);
}

TEST_F(ChoiceItems, the_limit_counts_items_of_each_subject) {
  std::string dev;
  std::string test;
  for (const char* subject : {"one", "two"}) {
    for (int i = 0; i < 5; ++i) {
      const std::string line =
          R"({"subject": ")" + std::string(subject) +
          R"(", "question": "Q", "choices": ["a", "b", "c", "d"], "answer": 0})";
      dev += line + "\n";
      test += line + "\n";
    }
  }
  write("mmlu_dev.jsonl", dev);
  write("mmlu_test.jsonl", test);
  const ChoiceTask task = read_choice_task("mmlu", folder_, 3);
  EXPECT_EQ(task.subjects, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(task.items.size(), 6u);
}

TEST_F(ChoiceItems, wrong_files_are_named_with_their_line) {
  EXPECT_NE(error("piqa").find("no file for task piqa"), std::string::npos);
  write("piqa/piqa_val.jsonl", "{\"goal\": \"x\", \"label\": 0}\n");
  EXPECT_NE(error("piqa").find("line 1 has no string \"sol1\""), std::string::npos);
  write("piqa/piqa_val.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 2})");
  EXPECT_NE(error("piqa").find("answer 2 of 2 choices"), std::string::npos);
  write("winogrande/w_val.jsonl",
        R"({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"})");
  EXPECT_NE(error("winogrande").find("no gap '_'"), std::string::npos);
  write("rte/rte_val.jsonl", "[1]\n");
  EXPECT_NE(error("rte").find("line 1 is not a JSON object"), std::string::npos);
  EXPECT_NE(error("nonsense").find("is none of piqa"), std::string::npos);
}

}  // namespace
}  // namespace d2q
