#include "report/comparison_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "report/comparison_table.h"
#include "report/html_page.h"
#include "report/svg_chart.h"

namespace d2q {
namespace {

using nlohmann::json;

/// What the axis of a column's plot says; columns that are not here have no plot.
std::string unit_of(const std::string& title) {
  if (title.ends_with(", %")) return "% of items";
  if (title == "bits/weight") return "bits";
  if (title == "size" || title == "peak memory" || title == "quantization memory") return "bytes";
  if (title == "tokens/s") return "tokens a second";
  if (title == "quantized in, s") return "seconds";
  if (title.starts_with("KLD ")) return "nats a token";
  if (title.starts_with("same top")) return "% of tokens";
  return "perplexity";
}

/// The first text of the command line.
std::string first_text(const json& model) {
  const json texts = model.value("texts", json::array());
  return texts.empty() ? model["perplexity"].begin().key() : texts.front().get<std::string>();
}

/// Cuts bars at ten times the shortest, so that a collapsed model does not hide what the others
/// differ in; returns what the axis says about it.
std::string clip(std::vector<ChartBar>& bars) {
  double least = INFINITY;
  for (const ChartBar& bar : bars) least = std::min(least, bar.value);
  bool clipped = false;
  for (ChartBar& bar : bars) {
    if (bar.value <= 10.0 * least) continue;
    bar.value = 10.0 * least;
    bar.text += " \u25b8";
    clipped = true;
  }
  return clipped ? fmt::format(" (bars end at {:.4g})", 10.0 * least) : "";
}

/// Perplexity against size: what a model costs and what it is worth.
std::string trade_off(const json& models) {
  std::vector<ChartSeries> series;
  std::string label;
  for (const json& model : models) {
    if (!model.contains("perplexity") || model["perplexity"].empty()) continue;
    if (label.empty()) label = first_text(model);
    if (!model["perplexity"].contains(label)) continue;
    const double perplexity = model["perplexity"][label]["perplexity"].get<double>();
    const double bits = model.value("bits_per_weight", NAN);
    const auto name = model["name"].get<std::string>();
    series.push_back(
        {name,
         {{bits, perplexity,
           fmt::format("{}: {:.3f} bits, perplexity {:.4g}", name, bits, perplexity)}}});
  }
  return line_chart({"Perplexity on " + label + " against bits", "bits a weight of the linears",
                     "perplexity", true},
                    series, /*lines=*/false);
}

}  // namespace

std::string make_comparison_page(const json& models) {
  const Table table = make_comparison_table(models);
  std::string body = "<h1>Comparison of models</h1>\n" + html_table(table) +
                     "<h2>Plots</h2>\n<div class=\"plots\">" + trade_off(models);
  for (size_t column = 1; column < table.titles.size(); ++column) {
    std::vector<ChartBar> bars;
    for (const auto& row : table.rows) {
      if (row[column].exact.empty()) continue;
      bars.push_back({row[0].text, std::stod(row[column].exact), row[column].text});
      if (table.titles[column].find('%') != std::string::npos) bars.back().value *= 100.0;
    }
    std::string unit = unit_of(table.titles[column]);
    if (unit == "perplexity") unit += clip(bars);
    body += bar_chart({table.titles[column], "", unit, false}, bars);
  }
  body += "</div>\n<h2>Models</h2>\n";
  std::vector<std::pair<std::string, std::string>> facts;
  for (const json& model : models) {
    std::string text = fmt::format("{} ({}, {})", model.value("path", ""),
                                   model.value("format", ""), model.value("device", ""));
    if (model.contains("quantization") && model["quantization"].contains("settings"))
      text += ": " + model["quantization"]["settings"].dump();
    facts.emplace_back(model["name"].get<std::string>(), text);
  }
  return html_page("Comparison of models", body + html_facts(facts));
}

}  // namespace d2q
