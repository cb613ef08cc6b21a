#include "report/comparison_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "report/units.h"

namespace d2q {
namespace {

using nlohmann::json;
using Format = std::function<std::string(double)>;

/// A column of numbers: where a model's row has its figure, and how it is shown.
struct Column {
  std::string title;
  std::vector<std::string> path;
  Format format;
};

const json* find(const json& value, const std::vector<std::string>& path) {
  const json* at = &value;
  for (const std::string& key : path) {
    if (!at->is_object()) return nullptr;
    const auto next = at->find(key);
    if (next == at->end()) return nullptr;
    at = &*next;
  }
  return at->is_number() ? at : nullptr;
}

Format fixed(int digits) {
  return [digits](double value) { return fmt::format("{:.{}f}", value, digits); };
}

std::string percent(double value) { return fmt::format("{:.2f}", 100.0 * value); }

/// Perplexities of collapsed models have many digits; three significant ones do.
std::string perplexity(double value) {
  return value < 1000.0 ? fmt::format("{:.2f}", value) : fmt::format("{:.3g}", value);
}

/// Keys below `member` of any model, in the order that the models' lists `order` give, the others
/// after them.
std::vector<std::string> keys(const json& models, const char* member, const char* order) {
  std::vector<std::string> result;
  const auto add = [&](const std::string& key) {
    const bool present = std::ranges::any_of(models, [&](const json& model) {
      return model.contains(member) && model[member].is_object() && model[member].contains(key);
    });
    if (present && std::ranges::find(result, key) == result.end()) result.push_back(key);
  };
  for (const json& model : models) {
    const json names = model.value(order, json::array());
    for (const json& name : names)
      if (name.is_string()) add(name.get<std::string>());
  }
  for (const json& model : models) {
    const json entries = model.value(member, json::object());
    for (const auto& [key, value] : entries.items()) add(key);
  }
  return result;
}

std::vector<Column> columns(const json& models) {
  std::vector<Column> result = {{"bits/weight", {"bits_per_weight"}, fixed(3)},
                                {"size", {"bytes"}, format_bytes}};
  for (const std::string& text : keys(models, "perplexity", "texts"))
    result.push_back({text, {"perplexity", text, "perplexity"}, perplexity});
  for (const std::string& text : keys(models, "divergence", "texts")) {
    result.push_back({"KLD " + text, {"divergence", text, "kld"}, fixed(4)});
    result.push_back({"same top, % " + text, {"divergence", text, "top_agreement"}, percent});
  }
  const auto add_task = [&](const std::string& task) {
    result.push_back({task + ", %", {"tasks", task, "acc"}, percent});
  };
  for (const std::string& task : keys(models, "tasks", "task_names"))
    if (task != "mmlu") add_task(task);
  result.push_back({"average, %", {"average", "acc"}, percent});
  result.push_back({"average norm, %", {"average", "acc_norm"}, percent});
  add_task("mmlu");
  result.push_back({"tokens/s", {"decode_tokens_per_second"}, fixed(1)});
  result.push_back({"peak memory", {"peak_memory_bytes"}, format_bytes});
  result.push_back({"quantized in, s", {"quantization", "seconds"}, fixed(1)});
  result.push_back({"quantization memory", {"quantization", "peak_memory_bytes"}, format_bytes});
  std::erase_if(result, [&](const Column& column) {
    return std::ranges::none_of(
        models, [&](const json& model) { return find(model, column.path) != nullptr; });
  });
  return result;
}

}  // namespace

Table make_comparison_table(const json& models) {
  Table table{{"model"}, {}};
  const std::vector<Column> shown = columns(models);
  for (const Column& column : shown) table.titles.push_back(column.title);
  for (const json& model : models) {
    const std::string name = model.value("name", "");
    std::vector<TableCell> row = {{name, name}};
    for (const Column& column : shown) {
      const json* value = find(model, column.path);
      row.push_back(value == nullptr
                        ? TableCell{"", ""}
                        : TableCell{column.format(value->get<double>()), value->dump()});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace d2q
