#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "text/testing/golden_file.h"

namespace d2q {
namespace {

using nlohmann::ordered_json;

class ChatTemplateFiles : public ::testing::Test {
 protected:
  ChatTemplateFiles()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~ChatTemplateFiles() override { std::filesystem::remove_all(folder_); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string render(std::string_view variant = "default") const {
    const auto found = load_chat_template(folder_, variant);
    if (!found) return "none";
    return found->render({{{"role", "user"}, {"content", "hi"}}}, {});
  }
  std::filesystem::path folder_;
};

constexpr const char* kSource = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";

TEST_F(ChatTemplateFiles, AFolderWithoutATemplateHasNone) {
  EXPECT_EQ(render(), "none");
  write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  EXPECT_EQ(render(), "none");
}

TEST_F(ChatTemplateFiles, ComesFromTheTokenizersConfigurationWithItsSpecialTokens) {
  write(
      "tokenizer_config.json",
      R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "chat_template": ")" +
          std::string(kSource) + R"("})");
  EXPECT_EQ(render(), "<s>hi</s>");
}

TEST_F(ChatTemplateFiles, MissingSpecialTokensComeFromTheirMap) {
  write("tokenizer_config.json",
        R"({"bos_token": null, "chat_template": ")" + std::string(kSource) + R"("})");
  write("special_tokens_map.json", R"({"bos_token": {"content": "[B]"}, "eos_token": "[E]"})");
  EXPECT_EQ(render(), "[B]hi[E]");
}

TEST_F(ChatTemplateFiles, OneFileOfItsOwnComesFirst) {
  write("tokenizer_config.json", R"({"bos_token": "<s>", "chat_template": "old"})");
  write("chat_template.json", R"({"chat_template": "older"})");
  EXPECT_EQ(render(), "older");
  write("chat_template.jinja", kSource);
  EXPECT_EQ(render(), "<s>hi");
}

TEST_F(ChatTemplateFiles, TakesTheVariantAskedForOrTheDefault) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]})");
  EXPECT_EQ(render(), "d");
  EXPECT_EQ(render("tool_use"), "t");
  EXPECT_EQ(render("rag"), "d");
}

TEST_F(ChatTemplateFiles, ABrokenTemplateIsNamedWithItsPlace) {
  write("chat_template.jinja", "a\n{{ }}");
  try {
    render();
    FAIL();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("chat_template.jinja:2: "), std::string::npos) << message;
  }
}

TEST(ChatTemplate, VariablesAndToolsReachTheTemplate) {
  const ChatTemplate chat("{{ tools[0].name if tools else '-' }}{{ enable_thinking }}", "t",
                          ordered_json::object());
  ChatOptions options;
  EXPECT_EQ(chat.render(ordered_json::array(), options), "-");
  options.tools = {{{"name", "f"}}};
  options.variables = {{"enable_thinking", false}};
  EXPECT_EQ(chat.render(ordered_json::array(), options), "fFalse");
}

TEST(ChatTemplate, FieldsThatAreNullCountAsAbsent) {
  const ChatTemplate chat("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}", "t",
                          ordered_json::object());
  EXPECT_EQ(
      chat.render({{{"role", "a"}, {"content", nullptr}}, {{"role", "b"}, {"content", "c"}}}, {}),
      "abc");
}

TEST(ChatTemplate, TheTokenThatEndsATurnIsFoundByRenderingOne) {
  const auto tokenizer = load_tokenizer(testing::golden_path("tokenizer_smollm.json"));
  const auto end_of = [&](const char* source) {
    return end_of_turn_token(ChatTemplate(source, "t", ordered_json::object()), *tokenizer);
  };
  const auto special = tokenizer->find_token("<|special|>");
  EXPECT_EQ(end_of("{% for m in messages %}{{ m.content }}<|special|>\n{% endfor %}"), special);
  EXPECT_EQ(end_of("{% for m in messages %}{{ m.content }} \n<|special|>{% endfor %}"), special);
  EXPECT_EQ(end_of("{% for m in messages %}{{ m.content }}\nUser:<|special|>{% endfor %}"),
            std::nullopt);
  EXPECT_EQ(end_of("{{ raise_exception('no') }}"), std::nullopt);
}

}  // namespace
}  // namespace d2q
