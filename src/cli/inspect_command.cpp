// d2quant inspect: what a model is made of, without loading its weights.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/runtime.h"
#include "format/gguf.h"
#include "format/packed_container.h"
#include "format/safetensors.h"
#include "model/weight_source.h"

namespace d2q::cli {
namespace {

struct TensorEntry {
  std::string name;
  std::string type;
  std::vector<int64_t> shape;  // of the weights that the tensor stands for
  int64_t n_bytes = 0;
  std::optional<PackedLayout> layout;

  int64_t n_weights() const {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    return n;
  }
};

std::vector<TensorEntry> list_gguf(const std::filesystem::path& path) {
  std::vector<TensorEntry> entries;
  const GgufFile file(path);
  for (const GgufTensor& tensor : file.tensors()) {
    entries.push_back({tensor.name, std::string(to_string(tensor.type)), tensor.shape,
                       static_cast<int64_t>(tensor.bytes.size()), std::nullopt});
  }
  return entries;
}

/// Codes and scales of one packed linear become one entry under the weight's name.
std::vector<TensorEntry> list_folder(const std::filesystem::path& path) {
  std::vector<TensorEntry> entries;
  const SafetensorsFolder folder(path);
  const std::string codes_suffix = packed_codes_name("");
  const std::string scales_suffix = packed_scales_name("");
  for (const auto& file : folder.files()) {
    for (const SafetensorsTensor& tensor : file->tensors()) {
      if (tensor.name.ends_with(codes_suffix)) {
        const std::string weight = tensor.name.substr(0, tensor.name.size() - codes_suffix.size());
        if (const auto packed = find_packed(folder, weight)) {
          const auto n_bytes =
              static_cast<int64_t>(packed->codes.size() + packed->scales.size_bytes());
          entries.push_back({weight,
                             "packed",
                             {packed->layout.rows, packed->layout.cols},
                             n_bytes,
                             packed->layout});
          continue;
        }
      }
      if (tensor.name.ends_with(scales_suffix) &&
          folder.find(packed_codes_name(
              tensor.name.substr(0, tensor.name.size() - scales_suffix.size())))) {
        continue;
      }
      entries.push_back({tensor.name, std::string(to_string(tensor.type)), tensor.shape,
                         static_cast<int64_t>(tensor.bytes.size()), std::nullopt});
    }
  }
  return entries;
}

struct Totals {
  int64_t n_weights = 0;
  int64_t n_bytes = 0;
  double bits_per_weight() const {
    return n_weights == 0 ? 0.0
                          : 8.0 * static_cast<double>(n_bytes) / static_cast<double>(n_weights);
  }
  void add(const TensorEntry& entry) {
    n_weights += entry.n_weights();
    n_bytes += entry.n_bytes;
  }
};

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
                const Totals& all, const Totals& packed, bool list_tensors) {
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
  std::map<std::string, Totals> by_type;
  for (const TensorEntry& entry : entries) by_type[entry.type].add(entry);
  for (const auto& [type, totals] : by_type) {
    print_line(fmt::format("  {:<8}       {} weights, {}", type, totals.n_weights,
                           format_bytes(static_cast<double>(totals.n_bytes))));
  }
  if (!list_tensors) return;
  for (const TensorEntry& entry : entries) {
    print_line(fmt::format("{:<56} {:<8} {:<16} {:>12}{}", entry.name, entry.type,
                           format_shape(entry.shape), entry.n_bytes,
                           entry.layout ? "  " + packed_layout_to_string(*entry.layout) : ""));
  }
}

void inspect(const std::string& path, bool list_tensors, bool as_json) {
  check_model_exists(path);
  const auto source = open_model(path);
  const auto entries = source->format() == "gguf" ? list_gguf(path) : list_folder(path);
  Totals all;
  Totals packed;
  for (const TensorEntry& entry : entries) {
    all.add(entry);
    if (entry.layout) packed.add(entry);
  }
  if (!as_json) return print_text(*source, entries, all, packed, list_tensors);
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
