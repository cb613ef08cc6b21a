#include "report/model_card.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace d2q {
namespace {

using nlohmann::json;

/// On one line, without what Markdown or YAML would read as a mark.
std::string plain(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '|' || c == '`' || c == '"' || c == '\\')
      result += ' ';
    else
      result += c == '\n' || c == '\r' ? ' ' : c;
  }
  return result;
}

std::string heading(const ModelCardFacts& facts) {
  std::string yaml = "---\n";
  if (facts.license) yaml += fmt::format("license: \"{}\"\n", plain(*facts.license));
  return yaml + fmt::format(
                    "base_model: \"{}\"\nbase_model_relation: quantized\ntags:\n- d2quant\n---\n\n",
                    plain(facts.base_model));
}

std::string license_section(const ModelCardFacts& facts) {
  std::string text = "## Licence\n\n";
  text += facts.license ? fmt::format("The base model's: {}.", plain(*facts.license))
                        : "The base model's, which its files do not name.";
  if (!facts.license_files.empty())
    text += fmt::format(" Carried over: {}.", fmt::join(facts.license_files, ", "));
  return text + "\n\n";
}

std::string measured(const json& report) {
  std::string text = "## Measured\n\n| figure | value |\n|---|---|\n";
  text += fmt::format("| bits a weight of the quantized linears | {:.4f} |\n",
                      report.at("bits_per_weight").get<double>());
  if (!report.contains("sanity")) return text + "\n";
  const json& sanity = report["sanity"];
  const auto number = [&](const char* key) {
    return sanity[key].is_number() ? fmt::format("{:.3f}", sanity[key].get<double>())
                                   : "not finite";
  };
  text += fmt::format("| perplexity of the original | {} |\n", number("original_perplexity"));
  text += fmt::format("| perplexity of this model | {} |\n\n", number("perplexity"));
  text += fmt::format(
      "Perplexities are of {} tokens of {} calibration text in windows of {}: a check for "
      "collapse, "
      "not a benchmark.\n",
      sanity.at("tokens").get<int64_t>(), sanity.at("unseen").get<bool>() ? "held-out" : "seen",
      sanity.at("ctx").get<int64_t>());
  if (const auto collapse = sanity.value("collapse", ""); !collapse.empty())
    text += fmt::format("\n**This model has collapsed: {}.**\n", collapse);
  return text + "\n";
}

}  // namespace

std::string make_model_card(const ModelCardFacts& facts, const json& report) {
  const json& settings = report.at("settings");
  std::string card = heading(facts);
  card += fmt::format(
      "# {}\n\n{}, its decoder's linears quantized to {} bits in groups of {} with d2quant {} "
      "(method {}).\n\n",
      plain(facts.name), plain(facts.base_model), settings.at("bits").get<int>(),
      settings.at("group_size").get<int64_t>(), report.at("tool_version").get<std::string>(),
      settings.at("method").get<std::string>());
  card += measured(report);
  card += fmt::format(
      "## How to run\n\n```\nd2quant run {0} -p \"Once upon a time\"\nd2quant eval ppl {0} --text "
      "FILE.txt\n```\n\n",
      plain(facts.name));
  card += license_section(facts);
  card += "## Settings\n\n| setting | value |\n|---|---|\n";
  for (const auto& [key, value] : settings.items())
    card += fmt::format("| {} | {} |\n", key,
                        plain(value.is_string() ? value.get<std::string>() : value.dump()));
  card +=
      fmt::format("| calibration_hash | {} |\n", report.at("calibration_hash").get<std::string>());
  return card;
}

}  // namespace d2q
