#include "report/quantization_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "report/html_page.h"
#include "report/svg_chart.h"
#include "report/units.h"

namespace d2q {
namespace {

using nlohmann::json;
using Facts = std::vector<std::pair<std::string, std::string>>;

double number(const json& object, const char* key) {
  return object.contains(key) && object[key].is_number() ? object[key].get<double>() : NAN;
}

std::string projection(const std::string& name) { return name.substr(name.rfind('.') + 1); }

std::string text_of(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string short_number(double value) { return fmt::format("{:.4g}", value); }

/// A line for each projection over the blocks.
std::string projection_chart(const json& blocks, const ChartAxes& axes,
                             const std::function<double(const json& linear)>& value) {
  std::vector<ChartSeries> series;
  for (const json& block : blocks) {
    for (const json& linear : block["linears"]) {
      const auto name = linear["name"].get<std::string>();
      const double y = value(linear);
      if (!std::isfinite(y)) continue;
      auto found = std::ranges::find(series, projection(name), &ChartSeries::name);
      if (found == series.end()) found = series.insert(found, {projection(name), {}});
      found->points.push_back(
          {block["block"].get<double>(), y, fmt::format("{}: {}", name, short_number(y))});
    }
  }
  return line_chart(axes, series);
}

/// Lines over the blocks, each from one place of a block's report.
struct BlockLine {
  std::string name;
  std::function<double(const json& block)> value;
};
std::string block_chart(const json& blocks, const ChartAxes& axes,
                        const std::vector<BlockLine>& lines) {
  std::vector<ChartSeries> series;
  for (const BlockLine& line : lines) {
    series.push_back({line.name, {}});
    for (const json& block : blocks) {
      const double y = line.value(block);
      series.back().points.push_back({number(block, "block"), y,
                                      fmt::format("block {}, {}: {}", block["block"].get<int64_t>(),
                                                  line.name, short_number(y))});
    }
  }
  return line_chart(axes, series);
}

/// The objective after each stage, averaged over a block's linears, relative to the output's
/// energy.
std::string stage_chart(const json& blocks) {
  std::vector<std::string> stages = {"before (rounding)"};
  for (const json& block : blocks) {
    for (const json& linear : block["linears"]) {
      for (const json& stage : linear.value("stages", json::array())) {
        const auto name = stage["stage"].get<std::string>();
        if (std::ranges::find(stages, name) == stages.end()) stages.push_back(name);
      }
    }
  }
  stages.push_back("after");
  std::vector<BlockLine> lines;
  for (const std::string& stage : stages) {
    lines.push_back({stage, [stage](const json& block) {
                       double sum = 0.0;
                       int count = 0;
                       for (const json& linear : block["linears"]) {
                         double value = NAN;
                         if (stage == "before (rounding)")
                           value = number(linear, "objective_before");
                         if (stage == "after") value = number(linear, "objective_after");
                         for (const json& entry : linear.value("stages", json::array()))
                           if (entry["stage"] == stage) value = number(entry, "objective");
                         if (!std::isfinite(value)) continue;
                         sum += value;
                         ++count;
                       }
                       return count > 0 ? sum / count : NAN;
                     }});
  }
  return block_chart(blocks,
                     {"Objective before and after each stage, mean of a block's linears", "block",
                      "objective / output energy", true},
                     lines);
}

std::string error_charts(const json& blocks) {
  const auto in_block = [](const char* part, const char* key) {
    return [part, key](const json& block) {
      return block.contains(part) ? number(block[part], key) : NAN;
    };
  };
  return "<div class=\"plots\">" +
         projection_chart(
             blocks,
             {"Relative error of each linear's output", "block", "‖(Ŵ − W)X‖² / ‖WX‖²", true},
             [](const json& linear) { return number(linear, "relative_error"); }) +
         stage_chart(blocks) +
         block_chart(blocks,
                     {"Deviation correction: mean signal-to-noise ratio of the shift", "block",
                      "SNR (mean / deviation)", false},
                     {{"mean SNR", in_block("deviation", "mean_snr")}}) +
         block_chart(blocks,
                     {"Deviation of the post-attention norm's output", "block",
                      "mean squared deviation", true},
                     {{"before correction", in_block("deviation", "mse_before")},
                      {"after", in_block("deviation", "mse_after")}}) +
         block_chart(blocks,
                     {"Block tuning: held-out output error", "block", "relative loss", true},
                     {{"before", in_block("tuning", "loss_before")},
                      {"after", in_block("tuning", "loss_after")}}) +
         "</div>\n";
}

/// What tuning the whole model at the end has brought; "" where there was none.
std::string end_tuning(const json& report) {
  if (!report.contains("end_tuning")) return "";
  const json& tuning = report["end_tuning"];
  const double before = number(tuning, "divergence_before");
  const double after = number(tuning, "divergence_after");
  const bool accepted = tuning.value("accepted", false);
  const auto bar = [](const char* label, double nats) {
    return ChartBar{label, nats, short_number(nats)};
  };
  return fmt::format(
             "<p>Tuning at the end, {} steps: the divergence of the model's next-token "
             "distribution from the original's, on held-out calibration windows, went from {} to "
             "{} nats.{}</p>\n",
             tuning.value("steps", 0), short_number(before), short_number(after),
             accepted ? "" : " It did not fall, so the model stayed as it was.") +
         "<div class=\"plots\">" +
         bar_chart({"Tuning at the end: held-out divergence", "", "KL divergence, nats", false},
                   {bar("before", before), bar(accepted ? "after" : "after, rejected", after)}) +
         "</div>\n";
}

std::string range_charts(const json& blocks) {
  const auto weight_peak = [](const json& linear) {
    if (!linear.contains("weight_range")) return static_cast<double>(NAN);
    const json& range = linear["weight_range"];
    return std::max(std::fabs(number(range, "minimum")), std::fabs(number(range, "maximum"))) /
           number(range, "rms");
  };
  const auto input = [](const char* key) {
    return [key](const json& linear) {
      return linear.contains("input_range") ? number(linear["input_range"], key) : NAN;
    };
  };
  return "<div class=\"plots\">" +
         projection_chart(blocks,
                          {"Largest weight", "block", "largest |w| / root mean square", false},
                          weight_peak) +
         projection_chart(blocks,
                          {"Activations: the largest input channel", "block",
                           "root mean square over tokens", true},
                          input("largest_rms")) +
         projection_chart(blocks,
                          {"Activations: the median input channel", "block",
                           "root mean square over tokens", true},
                          input("median_rms")) +
         "</div>\n";
}

using Seconds = std::map<std::string, double>;

/// Bars of the seconds in `totals`, a name each.
std::string seconds_chart(const std::string& title, const Seconds& totals) {
  std::vector<ChartBar> bars;
  for (const auto& [name, seconds] : totals)
    bars.push_back({name, seconds, fmt::format("{:.1f} s", seconds)});
  return bar_chart({title, "", "seconds", false}, bars);
}

std::string cost_charts(const json& report) {
  const json timings = report.value("timings", json::array());
  Seconds stages;
  Seconds projections;
  for (const json& block : timings) {
    for (const auto& [stage, seconds] : block.value("stage_seconds", Seconds()))
      stages[stage] += seconds;
    for (const auto& [name, seconds] : block.value("linear_seconds", Seconds()))
      projections[projection(name)] += seconds;
  }
  std::vector<BlockLine> lines = {
      {"whole block", [](const json& block) { return number(block, "seconds"); }}};
  for (const auto& [stage, total] : stages) {
    lines.push_back({stage, [stage = stage](const json& block) {
                       return number(block.value("stage_seconds", json::object()), stage.c_str());
                     }});
  }
  return "<div class=\"plots\">" +
         seconds_chart("Time by phase", report.value("phase_seconds", Seconds())) +
         seconds_chart("Time by stage, all blocks", stages) +
         seconds_chart("Time of solving by projection, all blocks", projections) +
         block_chart(timings, {"Time of each block", "block", "seconds", false}, lines) +
         block_chart(
             timings, {"Peak memory so far", "block", "GB", false},
             {{"resident",
               [](const json& block) { return 1e-9 * number(block, "peak_memory_bytes"); }}}) +
         "</div>\n";
}

TableCell cell(double value) {
  return std::isfinite(value) ? TableCell{short_number(value), json(value).dump()}
                              : TableCell{"", ""};
}

Table linear_table(const json& blocks) {
  Table table{{"linear", "bits", "group", "objective before", "after", "relative error", "damping",
               "largest |w|", "input channel, rms", "median, rms"},
              {}};
  for (const json& block : blocks) {
    for (const json& linear : block["linears"]) {
      const json weights = linear.value("weight_range", json::object());
      const json inputs = linear.value("input_range", json::object());
      const std::string name = linear["name"].get<std::string>();
      table.rows.push_back({{name, name},
                            cell(number(linear, "bits")),
                            cell(number(linear, "group_size")),
                            cell(number(linear, "objective_before")),
                            cell(number(linear, "objective_after")),
                            cell(number(linear, "relative_error")),
                            cell(number(linear, "damping")),
                            cell(std::max(std::fabs(number(weights, "minimum")),
                                          std::fabs(number(weights, "maximum")))),
                            cell(number(inputs, "largest_rms")),
                            cell(number(inputs, "median_rms"))});
    }
  }
  return table;
}

/// What stands out, worst first, in words.
std::string outliers(const json& blocks) {
  constexpr size_t kShown = 8;
  std::vector<std::pair<double, std::string>> errors;
  std::vector<std::pair<double, std::string>> channels;
  std::string failures;
  for (const json& block : blocks) {
    for (const json& linear : block["linears"]) {
      const auto name = linear["name"].get<std::string>();
      if (linear.value("rounded_only", false))
        failures += "<li>" + escape_html(name) + ": only rounded, not positive definite</li>";
      const double error = number(linear, "relative_error");
      if (std::isfinite(error))
        errors.emplace_back(error, fmt::format("{}: relative error {:.3g}", name, error));
      if (!linear.contains("input_range")) continue;
      const json& range = linear["input_range"];
      const double ratio = number(range, "largest_rms") / number(range, "median_rms");
      if (std::isfinite(ratio) && number(range, "outliers") > 0.0) {
        channels.emplace_back(
            ratio, fmt::format("{}: input channel {} is {:.1f} times the median; {} above 10 times",
                               name, range["largest_channel"].get<int64_t>(), ratio,
                               range["outliers"].get<int64_t>()));
      }
    }
  }
  const auto list = [&](std::vector<std::pair<double, std::string>>& entries) {
    std::ranges::stable_sort(entries, std::greater<>(), &std::pair<double, std::string>::first);
    std::string html;
    for (size_t i = 0; i < std::min(kShown, entries.size()); ++i)
      html += "<li>" + escape_html(entries[i].second) + "</li>";
    return html.empty() ? std::string("<li>none</li>") : html;
  };
  return "<h3>Largest errors</h3><ul>" + list(errors) +
         "</ul><h3>Input channels that stand out</h3><ul>" + list(channels) + "</ul>" +
         (failures.empty() ? "" : "<h3>Not solved</h3><ul>" + failures + "</ul>");
}

std::string glance(const json& report) {
  Facts figures = {{"bits a weight", fmt::format("{:.3f}", number(report, "bits_per_weight"))},
                   {"on disk", format_bytes(number(report, "output_bytes"))}};
  if (report.contains("sanity")) {
    const json& sanity = report["sanity"];
    figures.push_back(
        {"perplexity, original", fmt::format("{:.2f}", number(sanity, "original_perplexity"))});
    figures.push_back({"perplexity, result", fmt::format("{:.2f}", number(sanity, "perplexity"))});
    figures.push_back({"ratio", fmt::format("{:.2f}", number(sanity, "ratio"))});
  }
  figures.push_back({"time", format_duration(number(report, "seconds"))});
  figures.push_back({"peak memory", format_bytes(number(report, "peak_memory_bytes"))});
  return html_glance(figures);
}

std::string facts(const json& report) {
  Facts list;
  for (const char* key : {"model", "output", "tool_version", "device", "threads",
                          "calibration_hash", "model_fingerprint", "resumed_blocks"}) {
    if (report.contains(key)) list.emplace_back(key, text_of(report[key]));
  }
  for (const auto& [key, value] : report.at("settings").items())
    list.emplace_back(key, text_of(value));
  return html_facts(list);
}

}  // namespace

std::string make_quantization_page(const json& report) {
  const std::string output = report.value("output", "");
  const json& blocks = report.at("blocks");
  std::string body =
      fmt::format("<h1>Quantization of {}</h1>\n", escape_html(report.value("model", output)));
  const json sanity = report.value("sanity", json::object());
  const std::string collapse = sanity.value("collapse", "");
  if (!collapse.empty())
    body += "<p class=\"warning\">The result has collapsed: " + escape_html(collapse) + ".</p>\n";
  body += glance(report);
  if (!sanity.empty()) {
    body += fmt::format(
        "<p>Perplexity of {} tokens of {} calibration text in windows of {}, to notice a collapse; "
        "d2quant eval measures quality.</p>\n",
        sanity.value("tokens", 0), sanity.value("unseen", false) ? "held-out" : "seen",
        sanity.value("ctx", 0));
  }
  body += "<h2>Errors</h2>\n" + error_charts(blocks) + end_tuning(report) + "<h2>Outliers</h2>\n" +
          outliers(blocks) + "<h2>Ranges</h2>\n" + range_charts(blocks) +
          "<h2>Time and memory</h2>\n" + cost_charts(report) + "<h2>What was done</h2>\n" +
          facts(report) + "<details><summary>Every linear</summary>" +
          html_table(linear_table(blocks)) + "</details>\n";
  return html_page("Quantization of " + report.value("model", output), body);
}

}  // namespace d2q
