// Any bytes as a chat template, rendered for a conversation with tools: a text, or an Error.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "text/jinja/template.h"
#include "text/utf8.h"

namespace {

const nlohmann::ordered_json& context() {
  static const nlohmann::ordered_json value = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "héllo\n</think> x"},
                 {"role": "assistant", "content": null, "tool_calls": [
                   {"id": "a", "function": {"name": "f", "arguments": {"x": 1.5, "y": [true, null]}}}]},
                 {"role": "tool", "content": ["a", {"type": "text", "text": "b"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 3, "x": 0.5})");
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  d2q::jinja::RenderOptions options;
  options.limits.max_steps = 100'000;
  options.limits.max_bytes = size_t{8} << 20;
  options.limits.max_output_bytes = size_t{1} << 20;
  try {
    const std::string text = d2q::jinja::Template(source, "input").render(context(), options);
    if (!d2q::is_valid_utf8(text)) std::abort();
  } catch (const d2q::Error&) {
  }
  return 0;
}
