// Renders a model's chat template, for comparison with transformers' apply_chat_template.
//   d2q_render MODEL CONTEXTS.json
// CONTEXTS: a list of {"messages": [...], "add_generation_prompt": bool, "tools": [...] or null,
// "variables": {...}}, all but messages optional. Prints a list of {"text": ...} or {"error": ...}.
#include <cstdio>
#include <exception>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "text/chat_template.h"

namespace {

using nlohmann::ordered_json;

ordered_json render(const d2q::ChatTemplate& chat, const ordered_json& context) {
  d2q::ChatOptions options;
  options.add_generation_prompt = context.value("add_generation_prompt", true);
  options.tools = context.value("tools", ordered_json(nullptr));
  options.variables = context.value("variables", ordered_json::object());
  try {
    return {{"text", chat.render(context.at("messages"), options)}};
  } catch (const std::exception& error) {
    return {{"error", error.what()}};
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL CONTEXTS.json\n", argv[0]);
    return 2;
  }
  try {
    const auto chat = d2q::load_chat_template(argv[1]);
    if (!chat) throw std::runtime_error(std::string(argv[1]) + ": no chat template");
    std::ifstream file(argv[2]);
    if (!file) throw std::runtime_error(std::string(argv[2]) + ": cannot be read");
    ordered_json results = ordered_json::array();
    for (const ordered_json& context : ordered_json::parse(file))
      results.push_back(render(*chat, context));
    std::printf("%s\n", results.dump().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
