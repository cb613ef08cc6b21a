// Conversations with a tiny model, as a script or a user has them.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/process.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace d2q::test {
namespace {

constexpr const char* kTemplate =
    "{% for m in messages %}{% if m.content == 'refuse' %}{{ raise_exception('not this') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}<|endoftext|>{% endfor %}[assistant]";

class ChatCommand : public testing::Test {
 protected:
  void SetUp() override {
    write_tiny_model(folder_.path() / "model");
    model_ = (folder_.path() / "model").string();
  }
  void add_template() const {
    std::ofstream(folder_.path() / "model" / "chat_template.jinja") << kTemplate;
  }
  ProcessResult chat(const std::string& input, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"chat", model_, "-n", "8"};
    if (std::find(more.begin(), more.end(), "--temp") == more.end())
      arguments.insert(arguments.end(), {"--temp", "0"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_d2quant(arguments, "", input);
  }
  nlohmann::json saved() const {
    std::ifstream file(folder_.path() / "chat.json");
    return nlohmann::json::parse(file);
  }
  std::string save_line() const {
    return "/save " + (folder_.path() / "chat.json").string() + "\n";
  }
  TemporaryFolder folder_;
  std::string model_;
};

TEST_F(ChatCommand, EveryLineOfAScriptIsATurn) {
  add_template();
  const auto result = chat("hello\n\nand you \\\nthere?\n" + save_line(), {"--system", "kind"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto messages = saved();
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0], (nlohmann::json{{"role", "system"}, {"content", "kind"}}));
  EXPECT_EQ(messages[1]["content"], "hello");
  EXPECT_EQ(messages[3]["content"], "and you \nthere?");
  EXPECT_EQ(messages[4]["role"], "assistant");
  const auto reply = messages[2]["content"].get<std::string>();
  EXPECT_NE(result.out.find(reply.substr(reply.find_first_not_of(" \n"))), std::string::npos);
}

TEST_F(ChatCommand, TheSameScriptGetsTheSameReplies) {
  add_template();
  const std::vector<std::string> options = {"--temp", "1", "--seed", "5", "--threads", "1"};
  const auto first = chat("a\nb\n", options);
  EXPECT_EQ(first.out, chat("a\nb\n", {"--temp", "1", "--seed", "5", "--threads", "2"}).out);
  EXPECT_GE(std::count(first.out.begin(), first.out.end(), '\n'), 2);
}

TEST_F(ChatCommand, CommandsChangeTheConversation) {
  add_template();
  const auto result = chat("hello\n/reset\n/system be brief\n//help me\n" + save_line() +
                           "/nonsense\n/help\n/quit\nnever\n");
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto messages = saved();
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0]["content"], "be brief");
  EXPECT_EQ(messages[1]["content"], "/help me");
  EXPECT_NE(result.err.find("no such command"), std::string::npos);
  EXPECT_NE(result.err.find("/reset "), std::string::npos);
}

TEST_F(ChatCommand, ABaseModelIsToldToUseRun) {
  const auto result = chat("hello\n");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("no chat template"), std::string::npos) << result.err;
  const std::string file = folder_.write("mine.jinja", kTemplate);
  EXPECT_EQ(chat("hello\n", {"--chat-template", file}).exit_code, 0);
}

TEST_F(ChatCommand, AScriptFailsWithTheTurnThatTheTemplateRefuses) {
  add_template();
  const auto result = chat("hello\nrefuse\nnever\n");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("not this"), std::string::npos) << result.err;
}

TEST_F(ChatCommand, WrongOptionsAreUsage) {
  add_template();
  EXPECT_EQ(chat("", {"--template-var", "x"}).exit_code, 2);
  EXPECT_EQ(chat("", {"--logit-bias", "x=1"}).exit_code, 2);
  EXPECT_EQ(chat("", {"--logit-bias", "1"}).exit_code, 2);
  EXPECT_EQ(chat("", {"--presence-penalty", "1000"}).exit_code, 2);
  EXPECT_EQ(chat("hi\n", {"--logit-bias", "5=-inf", "--logit-bias", "6=2.5"}).exit_code, 0);
}

TEST_F(ChatCommand, AVariableReachesTheTemplate) {
  const std::string file = folder_.write(
      "t.jinja",
      "{% if mood is defined and mood is false %}{{ raise_exception('sad') }}{% endif %}x");
  EXPECT_EQ(chat("hi\n", {"--chat-template", file}).exit_code, 0);
  const auto result = chat("hi\n", {"--chat-template", file, "--template-var", "mood=false"});
  EXPECT_NE(result.err.find("sad"), std::string::npos) << result.err;
}

/// Reads from `descriptor` until `enough` says so or it ends.
template <typename Enough>
std::string read_until(int descriptor, Enough enough) {
  std::string text;
  char c = 0;
  while (!enough(text) && read(descriptor, &c, 1) == 1) text += c;
  return text;
}

TEST_F(ChatCommand, CtrlCStopsAReplyAndNotTheProgram) {
  add_template();
  int to_chat[2];
  int from_chat[2];
  ASSERT_EQ(pipe(to_chat), 0);
  ASSERT_EQ(pipe(from_chat), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    dup2(to_chat[0], STDIN_FILENO);
    dup2(from_chat[1], STDOUT_FILENO);
    dup2(from_chat[1], STDERR_FILENO);
    close(to_chat[1]);
    close(from_chat[0]);
    execl(D2Q_PROGRAM, D2Q_PROGRAM, "chat", model_.c_str(), "--temp", "0", "-n", "400",
          "--logit-bias", "256=-inf", "--threads", "1", nullptr);
    _exit(127);
  }
  close(to_chat[0]);
  close(from_chat[1]);
  const auto send = [&](const std::string& line) {
    EXPECT_EQ(write(to_chat[1], line.data(), line.size()), static_cast<ssize_t>(line.size()));
  };
  send("hello\n");
  read_until(from_chat[0], [](const std::string& text) { return text.size() >= 3; });
  kill(child, SIGINT);
  // Wherever it came, in the reply or just behind it, a note says so.
  const std::string note = read_until(from_chat[0], [](const std::string& text) {
    return text.find("(stopped)") != std::string::npos ||
           text.find("(Ctrl-C again") != std::string::npos;
  });
  EXPECT_NE(note.find('('), std::string::npos) << note;
  send("more\n/quit\n");
  const std::string rest = read_until(from_chat[0], [](const std::string&) { return false; });
  EXPECT_GT(rest.size(), 10u) << rest;
  close(to_chat[1]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace d2q::test
