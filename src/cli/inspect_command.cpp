// d2quant inspect: what a model is made of, without loading its weights.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/commands.h"
#include "cli/model_contents.h"
#include "cli/output.h"
#include "cli/runtime.h"
#include "format/packed_container.h"
#include "model/weight_source.h"
#include "report/units.h"

namespace d2q::cli {
namespace {

nlohmann::json to_json(const ModelConfig& config) {
  nlohmann::json json = {{"family", config.family},
                         {"hidden_size", config.hidden_size},
                         {"intermediate_size", config.intermediate_size},
                         {"layers", config.n_layers},
                         {"heads", config.n_heads},
                         {"kv_heads", config.n_kv_heads},
                         {"head_dim", config.head_dim},
                         {"vocab_size", config.vocab_size},
                         {"max_positions", config.max_positions},
                         {"norm_epsilon", config.norm_epsilon},
                         {"rope_theta", config.rope_theta},
                         {"tied_embeddings", config.tied_embeddings},
                         {"sliding_window", config.sliding_window},
                         {"eos_tokens", config.eos_tokens}};
  json["bos_token"] =
      config.bos_token ? nlohmann::json(*config.bos_token) : nlohmann::json(nullptr);
  return json;
}

nlohmann::json to_json(const TensorEntry& entry) {
  nlohmann::json json = {
      {"name", entry.name}, {"type", entry.type}, {"shape", entry.shape}, {"bytes", entry.n_bytes}};
  if (entry.layout) json["layout"] = packed_layout_to_string(*entry.layout);
  return json;
}

std::string format_shape(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void print_text(const WeightSource& source, const std::vector<TensorEntry>& entries,
                const TensorTotals& all, const TensorTotals& packed, bool print_tensors) {
  const ModelConfig& config = source.config();
  print_line(fmt::format("format           {}", source.format()));
  print_line(fmt::format("family           {}", config.family));
  print_line(fmt::format("layers           {} of hidden {}, intermediate {}", config.n_layers,
                         config.hidden_size, config.intermediate_size));
  print_line(fmt::format("attention        {} heads, {} key-value heads, head size {}",
                         config.n_heads, config.n_kv_heads, config.head_dim));
  print_line(fmt::format("vocabulary       {}{}", config.vocab_size,
                         config.tied_embeddings ? ", embedding tied to the head" : ""));
  print_line(fmt::format("context          {}", config.max_positions));
  print_line(fmt::format("weights          {} in {} tensors, {}", all.n_weights, entries.size(),
                         format_bytes(static_cast<double>(all.n_bytes))));
  print_line(fmt::format("bits per weight  {:.3f} of all tensors", all.bits_per_weight()));
  if (packed.n_weights > 0) {
    print_line(fmt::format("                 {:.3f} of the {} packed weights",
                           packed.bits_per_weight(), packed.n_weights));
  }
  std::map<std::string, TensorTotals> by_type;
  for (const TensorEntry& entry : entries) by_type[entry.type].add(entry);
  for (const auto& [type, totals] : by_type) {
    print_line(fmt::format("  {:<8}       {} weights, {}", type, totals.n_weights,
                           format_bytes(static_cast<double>(totals.n_bytes))));
  }
  if (!print_tensors) return;
  for (const TensorEntry& entry : entries) {
    print_line(fmt::format("{:<56} {:<8} {:<16} {:>12}{}", entry.name, entry.type,
                           format_shape(entry.shape), entry.n_bytes,
                           entry.layout ? "  " + packed_layout_to_string(*entry.layout) : ""));
  }
}

void inspect(const std::string& path, bool print_tensors, bool as_json) {
  check_model_exists(path);
  const auto source = open_model(path);
  const auto entries = list_tensors(*source, path);
  TensorTotals all;
  TensorTotals packed;
  for (const TensorEntry& entry : entries) {
    all.add(entry);
    if (entry.layout) packed.add(entry);
  }
  if (!as_json) return print_text(*source, entries, all, packed, print_tensors);
  nlohmann::json tensors = nlohmann::json::array();
  for (const TensorEntry& entry : entries) tensors.push_back(to_json(entry));
  nlohmann::json json = {{"format", source->format()},
                         {"config", to_json(source->config())},
                         {"weights", all.n_weights},
                         {"bytes", all.n_bytes},
                         {"bits_per_weight", all.bits_per_weight()},
                         {"tensors", std::move(tensors)}};
  json["packed_bits_per_weight"] =
      packed.n_weights > 0 ? nlohmann::json(packed.bits_per_weight()) : nlohmann::json(nullptr);
  print_json(json);
}

}  // namespace

void add_inspect_command(CLI::App& app, Program& program) {
  struct Options {
    std::string model;
    bool tensors = false;
    bool json = false;
  };
  CLI::App& command =
      add_command(app, "inspect", "Show what a model is made of, without loading its weights",
                  "  d2quant inspect model.gguf\n"
                  "  d2quant inspect model-2bit --tensors");
  auto options = std::make_shared<Options>();
  command.add_option("MODEL", options->model, "Model folder or GGUF file")->required();
  command.add_flag("--tensors", options->tensors,
                   "List every tensor with its type, shape and bytes");
  command.add_flag("--json", options->json, "Print one JSON object, tensors included");
  command.callback([options, &program] {
    program.action = [options] { inspect(options->model, options->tensors, options->json); };
  });
}

}  // namespace d2q::cli
