#include "engine/chat_session.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/testing/scripted_model.h"

namespace d2q {
namespace {

using testing::ByteTokenizer;
using testing::ScriptedSequence;

constexpr const char* kTemplate =
    "{% for m in messages %}{% if m.role == 'wizard' or m.content == 'refuse me' %}"
    "{{ raise_exception('not this') }}{% endif %}<{{ m.role[0] }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}";

class ChatSessionTest : public ::testing::Test {
 protected:
  ChatSession make(ScriptedSequence& sequence) {
    GenerateOptions options;
    options.sampling.temperature = 0.0;
    options.max_tokens = 20;
    options.stop_texts = {"\n"};
    return {sequence, tokenizer_, template_, options, nlohmann::ordered_json::object()};
  }
  ByteTokenizer tokenizer_;
  ChatTemplate template_{kTemplate, "t", nlohmann::ordered_json::object()};
};

TEST_F(ChatSessionTest, KeepsTheConversationAndReadsOnlyWhatIsNew) {
  ScriptedSequence sequence("<s>be kind\n<u>hi\n<a>hello\n<u>bye\n<a>so long\n", 200);
  ChatSession session = make(sequence);
  session.set_system("be kind");
  EXPECT_EQ(session.reply("hi", nullptr).text, "hello");
  const GenerateResult second = session.reply("bye", nullptr);
  EXPECT_EQ(second.text, "so long");
  // All but the last of what the first turn read or said: "...<a>hello\n".
  EXPECT_EQ(second.reused_tokens,
            static_cast<int64_t>(std::string("<s>be kind\n<u>hi\n<a>hello").size()));
  ASSERT_EQ(session.messages().size(), 5u);
  EXPECT_EQ(session.messages()[4]["content"], "so long");
}

TEST_F(ChatSessionTest, ResetKeepsTheSystemMessage) {
  ScriptedSequence sequence("<s>x\n<u>hi\n<a>hello\n", 200);
  ChatSession session = make(sequence);
  session.set_system("x");
  session.reply("hi", nullptr);
  session.reset();
  ASSERT_EQ(session.messages().size(), 1u);
  session.set_system("y");
  EXPECT_EQ(session.messages()[0]["content"], "y");
  session.set_system("");
  EXPECT_TRUE(session.messages().empty());
}

TEST_F(ChatSessionTest, ARefusedTurnLeavesTheConversationAsItWas) {
  ScriptedSequence sequence("<u>hi\n<a>hello\n", 200);
  ChatSession session = make(sequence);
  session.reply("hi", nullptr);
  EXPECT_THROW(session.reply("refuse me", nullptr), Error);
  EXPECT_EQ(session.messages().size(), 2u);
}

TEST_F(ChatSessionTest, DropsTheOldestTurnsWhenTheContextIsFull) {
  // The script says the same at every place where a reply can begin.
  ScriptedSequence sequence(std::string(400, '.') + "\n", 60);
  ChatSession session = make(sequence);
  session.set_system("s");
  for (int i = 0; i < 5; ++i) session.reply("0123456789", nullptr);
  EXPECT_GT(session.n_dropped(), 0);
  EXPECT_EQ(session.n_dropped() % 2, 0);
  EXPECT_EQ(session.messages()[0]["role"], "system");
  EXPECT_EQ(session.messages()[1]["role"], "user");
  EXPECT_THROW(session.reply(std::string(100, 'x'), nullptr), Error);
}

TEST_F(ChatSessionTest, AStoppedReplyStaysInTheConversation) {
  ScriptedSequence sequence("<u>hi\n<a>hello\n", 200);
  ChatSession session = make(sequence);
  const auto result = session.reply("hi", [](std::string_view piece) { return piece != "e"; });
  EXPECT_EQ(result.reason, StopReason::kCallback);
  EXPECT_EQ(session.messages()[1]["content"], "he");
}

}  // namespace
}  // namespace d2q
