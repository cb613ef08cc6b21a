#include "text/jinja/template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace d2q::jinja {
namespace {

using nlohmann::ordered_json;

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The moment that tools/make_template_golden.py renders at.
RenderOptions at_golden_time() {
  RenderOptions options;
  std::tm now = {};
  now.tm_year = 125;
  now.tm_mon = 2;
  now.tm_mday = 7;
  now.tm_hour = 14;
  now.tm_min = 5;
  now.tm_sec = 9;
  now.tm_wday = 5;
  options.now = now;
  return options;
}

/// What jinja2 made of it: a text, a refusal by the template with its words, or an error.
void expect_like(const ordered_json& expected, const std::string& source,
                 const ordered_json& context, const std::string& what) {
  try {
    const std::string text = Template(source, "t").render(context, at_golden_time());
    if (expected.contains("text")) {
      EXPECT_EQ(text, expected["text"].get<std::string>()) << what;
    } else {
      ADD_FAILURE() << what << ": rendered '" << text << "', expected " << expected.dump();
    }
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("t:")) << message;
    if (expected.contains("refused")) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << what << ": " << message;
      EXPECT_TRUE(message.ends_with(": " + expected["refused"].get<std::string>())) << message;
    } else {
      EXPECT_TRUE(expected.contains("error")) << what << ": " << message;
    }
  }
}

class ChatTemplates : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatTemplates, RenderAsJinja2RendersThem) {
  const std::string data = D2Q_TEST_DATA;
  const ordered_json golden = ordered_json::parse(read_all(data + "/chat_template_golden.json"));
  const std::string source = read_all(data + "/chat_templates/" + GetParam() + ".jinja");
  for (const auto& [name, expected] : golden["templates"][GetParam()].items()) {
    const bool prompt = name.ends_with("+prompt");
    ordered_json context = {{"tools", nullptr}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
    context.update(golden["conversations"][name.substr(0, name.size() - (prompt ? 7 : 0))]);
    context["add_generation_prompt"] = prompt;
    expect_like(expected, source, context, name);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ChatTemplates,
                         ::testing::Values("llama2", "llama3", "llama3_1", "mistral", "qwen2",
                                           "qwen3", "smollm", "phi3", "gemma"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(Template, RendersEverySnippetAsJinja2Does) {
  const ordered_json golden =
      ordered_json::parse(read_all(std::string(D2Q_TEST_DATA) + "/chat_template_golden.json"));
  ASSERT_GT(golden["snippets"].size(), 100u);
  for (const auto& snippet : golden["snippets"]) {
    const auto source = snippet["template"].get<std::string>();
    expect_like(snippet, source, golden["variables"], source);
  }
}

std::string error_of(const std::string& source, ErrorCode code, const RenderLimits& limits = {}) {
  try {
    const std::string text = Template(source, "t").render({{"n", 1}}, {limits, std::nullopt});
    ADD_FAILURE() << source << ": rendered " << text.substr(0, 100);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "";
}

TEST(Template, NamesTheLineOfAnError) {
  EXPECT_EQ(error_of("a\nb {{ x.y }}", ErrorCode::kInvalidArgument),
            "t:2: 'x' is undefined, so it has no 'y'");
  EXPECT_EQ(error_of("a\n\n{% if n %}\n{{ n + 'a' }}{% endif %}", ErrorCode::kInvalidArgument),
            "t:4: '+' is not defined for an integer and text");
  EXPECT_EQ(error_of("{{\nn n }}", ErrorCode::kCorrupt), "t:2: found 'n', expected '}}'");
  EXPECT_EQ(error_of("a\n{% include 'b' %}", ErrorCode::kUnsupported),
            "t:2: the tag 'include' is not supported");
  EXPECT_EQ(error_of("\n{{ raise_exception('no') }}", ErrorCode::kInvalidArgument), "t:2: no");
}

TEST(Template, EndsWhatWouldNotEnd) {
  const auto unsupported = [](const std::string& source) {
    return error_of(source, ErrorCode::kUnsupported);
  };
  std::string loops;
  for (int i = 0; i < 6; ++i) loops += "{% for a in range(1000) %}";
  loops += "{{ n }}";
  for (int i = 0; i < 6; ++i) loops += "{% endfor %}";
  unsupported(loops);
  EXPECT_NE(unsupported("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("nests"),
            std::string::npos);
  unsupported(
      "{% set ns = namespace(x='a') %}{% for i in range(60) %}"
      "{% set ns.x = ns.x ~ ns.x %}{% endfor %}");
  unsupported(
      "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}");
  unsupported(
      "{% set ns = namespace(x=[1]) %}{% for i in range(2000) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}");
  unsupported("{% set x = 'a' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}");
  unsupported("{{ 'a' * 1000000000 }}");
  unsupported("{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}");
  unsupported("{{ ('\\n' * 1000000) | indent(1000) }}");
  unsupported("{{ range(1000000000) }}");
  unsupported("{{ 9223372036854775807 + 1 }}");
  unsupported("{{ 2 ** 100 }}");
}

TEST(Template, RefusesNestingThatWouldOverflowTheStack) {
  const auto nested = [](const std::string& open, const std::string& close) {
    std::string source;
    for (int i = 0; i < 20000; ++i) source += open;
    source += "1";
    for (int i = 0; i < 20000; ++i) source += close;
    return source;
  };
  error_of("{{ " + nested("(", ")") + " }}", ErrorCode::kUnsupported);
  error_of("{{ " + nested("[", "]") + " }}", ErrorCode::kUnsupported);
  error_of("{{ " + nested("not ", "") + " }}", ErrorCode::kUnsupported);
  error_of("{{ " + nested("-", "") + " }}", ErrorCode::kUnsupported);
  error_of("{{ 1" + nested("+1", "") + " }}", ErrorCode::kUnsupported);
  error_of("{{ n" + nested("|string", "") + " }}", ErrorCode::kUnsupported);
  error_of("{{ n" + nested(".x", "") + " }}", ErrorCode::kUnsupported);
  error_of(nested("{% if n %}", "{% endif %}"), ErrorCode::kUnsupported);
  error_of(nested("{% if n %}", ""), ErrorCode::kUnsupported);
}

TEST(Template, KeepsLoopsAndMacrosOutOfWhatOutlivesThem) {
  error_of("{% set ns = namespace() %}{% for i in [1] %}{% set ns.x = loop %}{% endfor %}",
           ErrorCode::kUnsupported);
  error_of("{% macro m() %}{% endmacro %}{{ [m] }}", ErrorCode::kUnsupported);
  error_of("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", ErrorCode::kUnsupported);
}

TEST(Template, MayBeRenderedAgain) {
  const Template greeting("{% set ns = namespace(i=0) %}{% set ns.i = ns.i + n %}{{ ns.i }}", "t");
  EXPECT_EQ(greeting.render({{"n", 1}}), "1");
  EXPECT_EQ(greeting.render({{"n", 2}}), "2");
}

}  // namespace
}  // namespace d2q::jinja
